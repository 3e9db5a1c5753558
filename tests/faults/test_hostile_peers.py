"""Peers that mean harm, met by a client alone and by a whole gateway (J07, J09 to J11, D07).

What one peer may say or leave out at one point of the dialogue is in tests/delivery; here are
those that do not stop, that answer before they are asked, and many of them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import TlsOptions
from smtpgw.delivery.outcome import Deferred, Delivered, Failed, Job, Outcome
from smtpgw.delivery.wire import Lost
from tests.crash.ledger import send_one
from tests.delivery.peer import CLOSE, EXTENSIONS, STALL, Answer, Peer, job, on_port, pool
from tests.faults import place
from tests.gateway.gateway import Gateway, until
from tests.queue.support import run

TWO = (b"a@example.net", b"b@example.net")
CHUNKING = EXTENSIONS.replace(b"250 SIZE", b"250-CHUNKING\r\n250 SIZE")
PLAIN = b"250-peer.example\r\n250 8BITMIME\r\n"
_SHORT = "\n".join(
    f'smtp_{each}_timeout = "4s"'
    for each in ("helo", "starttls", "mail", "rcpt", "data_init", "data_xfer", "data_done")
)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _try(hop: Hop, work: Job, client: Mapping[str, object] | None = None) -> list[Outcome]:
    """The outcomes; Lost is a deferral of each, as the transports above make it."""
    deliverer = pool(
        client=client, smtp_connect_timeout=0.5, smtp_helo_timeout=0.5, smtp_mail_timeout=0.5,
        smtp_rcpt_timeout=0.5, smtp_data_init_timeout=0.5, smtp_data_xfer_timeout=0.5,
        smtp_data_done_timeout=0.5, smtp_quit_timeout=0.5,
    )  # fmt: skip
    try:
        return list(await deliverer.deliver_to(hop, work))
    except Lost as error:
        return [Deferred(each.number, error.text, "", error.enhanced) for each in work.targets]
    finally:
        await deliverer.close()


# Replies before time


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    ("offers", "when"),
    [(offers, when) for offers in (EXTENSIONS, PLAIN) for when in ("EHLO", "MAIL", "RCPT", "DATA")]
    + [(CHUNKING, when) for when in ("EHLO", "MAIL", "RCPT", "BDAT")],
)
def test_what_is_said_before_the_message_was_sent_takes_no_mail(
    when: str, offers: bytes, lmtp: bool
) -> None:
    """All answers that a good peer would give, at once and too early."""
    hello = "LHLO" if lmtp else "EHLO"
    rest = [b"250 2.1.0 ok\r\n", b"250 2.1.5 ok\r\n", b"250 2.1.5 ok\r\n", b"354 go\r\n"]
    rest += [b"250 2.0.0 stored\r\n"] * (2 if lmtp else 1)
    if offers is CHUNKING:
        rest.remove(b"354 go\r\n")
    early = b"".join(rest[{"EHLO": 0, "MAIL": 0, "RCPT": 1}.get(when, 3) :])
    ok = b"250 2.0.0 go on\r\n"
    answers: dict[str, Answer | list[Answer]] = {hello: offers, "BDAT": ok, when: [early, b""]}
    if when == "EHLO":
        answers[hello] = offers + early
    elif when == "BDAT":
        answers["BDAT"] = ok * 2
    peer = Peer(answers)

    async def scenario() -> Sequence[Outcome]:
        async with on_port(peer, lmtp=lmtp) as hop:
            return await _try(hop, job(TWO, b"x" * 200_000), {"smtp_use_chunking": "always"})

    assert [type(each) for each in run(scenario())] == [Deferred, Deferred]
    assert peer.messages == []


# Those that do not stop


def _flood(opening: bytes, drop: bytes, sent: list[int]) -> Serve:
    """Say `opening`, then `drop` for ever; `sent` gets how many octets went out."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(opening)
        octets = 0
        try:
            while True:
                writer.write(drop)
                await writer.drain()
                octets += len(drop)
        except OSError:
            sent.append(octets)
        finally:
            writer.close()

    return serve


@contextlib.asynccontextmanager
async def _served(serve: Serve) -> AsyncIterator[Hop]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**26)
    try:
        yield Hop("example.net", "mx", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


_GREETED = b"220 peer\r\n"
_KNOWN = _GREETED + EXTENSIONS
_ACCEPTED = _KNOWN + b"250 ok\r\n" * 2 + b"354 go\r\n"


@pytest.mark.parametrize("drop", [b"250-more\r\n" * 1000, b"250 ok\r\n" * 1000, b"2" * 10_000,
                                  b"220 peer\r\n" * 1000, b"\0" * 10_000])  # fmt: skip
@pytest.mark.parametrize("opening", [b"", _GREETED, _KNOWN, _ACCEPTED])
def test_one_that_never_stops_talking_is_hung_up_on(opening: bytes, drop: bytes) -> None:
    """J07: after some kilobytes, whatever they are, and none of it is held."""
    sent: list[int] = []

    async def scenario() -> list[Outcome]:
        async with _served(_flood(opening, drop, sent)) as hop:
            outcomes = await _try(hop, job(text=b"x" * 3_000_000))
            async with asyncio.timeout(10):
                while not sent:  # noqa: ASYNC110 - the peer is told by its system when it is
                    await asyncio.sleep(0.01)
        return outcomes

    (outcome,) = run(scenario())
    assert isinstance(outcome, Deferred), outcome
    assert max(sent) < 30_000_000, "no more than buffers of the system hold"


def test_one_that_talks_on_a_connection_that_is_kept_is_hung_up_on() -> None:
    """Nobody reads there until the next mail, and nobody asked."""
    ended = asyncio.Event()

    class Talker(Peer):
        async def _stored(self, writer: asyncio.StreamWriter, line: bytes) -> bool:
            await super()._stored(writer, line)
            await asyncio.sleep(0.1)  # until it is kept
            try:
                while True:
                    writer.write(b"250 ok\r\n" * 1000)
                    await writer.drain()
            finally:
                ended.set()

    async def scenario() -> None:
        async with on_port(Talker()) as hop:
            deliverer = pool(kept=60)
            assert isinstance((await deliverer.deliver_to(hop, job()))[0], Delivered)
            await asyncio.wait_for(ended.wait(), 10)
            await deliverer.close()

    run(scenario())


def test_one_that_dribbles_gains_no_time() -> None:
    """An octet every tenth of a second is no progress: the limit is for the whole reply."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for each in b"220 a peer that takes its time\r\n" * 9:
                writer.write(bytes([each]))
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()

    async def scenario() -> list[Outcome]:
        async with _served(serve) as hop, asyncio.timeout(8):
            return await _try(hop, job())

    (outcome,) = run(scenario())
    assert isinstance(outcome, Deferred)
    assert "timed out" in outcome.text


def test_a_host_that_swallows_what_is_sent_to_it_costs_the_time_to_connect() -> None:
    """F31: a black hole, made of a listener whose queue is full."""
    with socket.socket() as hole, contextlib.ExitStack() as stack:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        hop = Hop("example.net", "mx", *hole.getsockname())

        async def scenario() -> list[Outcome]:
            async with asyncio.timeout(8):
                return await _try(hop, job())

        (outcome,) = run(scenario())
    assert isinstance(outcome, Deferred)
    assert (outcome.text.partition(": ")[2], outcome.enhanced) == ("timed out", "4.4.1")


def test_a_handshake_that_never_ends_costs_its_time() -> None:
    offers = b"250-peer.example\r\n250 STARTTLS\r\n"
    peer = Peer({"EHLO": offers, "STARTTLS": b"220 go\r\n" + STALL})

    async def scenario() -> None:
        async with on_port(peer) as hop, asyncio.timeout(8):
            deliverer = pool(tls=TlsOptions("encrypt"), smtp_starttls_timeout=0.3)
            with pytest.raises(Lost, match="TLS handshake failed: timed out"):
                await deliverer.deliver_to(hop, job())
            await deliverer.close()

    run(scenario())


# Many at once


async def _nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


_GATEWAYS_ENEMIES: dict[str, Serve] = {
    "silent": _nothing,
    "endless": _flood(b"", b"220-more\r\n" * 1000, []),
    "line": _flood(_GREETED, b"2" * 10_000, []),
    "after": _flood(_ACCEPTED, b"250-more\r\n" * 1000, []),
    "deaf": Peer({"DATA": b"354 go\r\n" + STALL}).serve,
    "early": Peer({"MAIL": b"250 ok\r\n" * 4}).serve,
    "gone": Peer({"DOT": CLOSE}).serve,
    "wrong": Peer({"RCPT": b"354 go\r\n", "MAIL": b"999 what\r\n"}).serve,
    "starttls": Peer({"EHLO": b"250-p\r\n250 STARTTLS\r\n",
                      "STARTTLS": b"220 go\r\n250 injected\r\n"}).serve,
}  # fmt: skip
EACH = 5
_LATER = "minimal_backoff_time = '1h'\nmaximal_backoff_time = '1h'"


async def _besiege(gateway: Gateway, good: Peer) -> int:
    """Mail for all of them and then for the good one; the worker's most memory before, in kB."""
    async with contextlib.AsyncExitStack() as stack:
        hops = {
            name: await stack.enter_async_context(_served(serve))
            for name, serve in _GATEWAYS_ENEMIES.items()
        }
        hops["good"] = await stack.enter_async_context(_served(good.serve))
        table = "\n".join(
            f'"{each}.example" = "smtp:[127.0.0.1]:{hops[each].port}"' for each in hops
        )
        gateway.configure(tables=f"{_SHORT}\n[smtpgw.transport]\n{table}", queue=_LATER)
        await asyncio.to_thread(gateway.start)
        before = _peak(place.worker(gateway))
        message = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" + b"y" * 3_000_000
        for each in [name for name in _GATEWAYS_ENEMIES for _ in range(EACH)]:
            assert await send_one(gateway.port, [f"u@{each}.example"], message)
        for number in range(20):
            assert await send_one(gateway.port, [f"u{number}@good.example"], b"S: x\r\n\r\nx")

        def heard_of() -> bool:
            """All that go have gone, and one for each enemy was tried: it may rest after that."""
            domains = [each["recipient"].partition("@")[2] for each in gateway.events("delivery")]
            return domains.count("good.example") == 20 and len(set(domains)) == len(hops)

        await asyncio.to_thread(until, heard_of, 60, "an outcome for each")
        return before


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_crowd_of_them_hurts_nobody_else() -> None:
    """Each mail for one of them waits with its reason; all others go; the worker stays small."""
    good = Peer()
    with place.home() as home, place.gateway(home) as gateway:
        before = asyncio.run(_besiege(gateway, good))
        worker = place.worker(gateway)
        grown = _peak(worker) - before
        assert len(good.messages) == 20
        sent = gateway.events("delivery")
        enemies = [each for each in sent if "good.example" not in each["recipient"]]
        assert {each["outcome"] for each in enemies} == {"deferred"}
        assert all(each["reason"] and len(each["reason"]) < 600 for each in enemies)
        assert grown < 60_000, f"{grown} kB more"
        assert gateway.count("child started") == 1
        assert [each for each in gateway.log() if each["level"] in ("error", "critical")] == []


# Mixes of refusals

_WORDS = st.sampled_from(
    [b"250 2.0.0 ok", b"251 2.0.0 ok", b"450 4.2.1 n", b"451 4.3.0 n", b"550 5.1.1 n", b"554 n",
     b"553 5.1.3 n", b"452 4.2.2 full", b"599 n", b"499 n"]
)  # fmt: skip
_MEANING = {b"2": Delivered, b"4": Deferred, b"5": Failed}


@settings(max_examples=60, deadline=None)
@given(said=st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=8), pipelining=st.booleans())
def test_each_recipient_has_the_last_word_said_of_it(
    said: list[tuple[bytes, bytes]], pipelining: bool
) -> None:
    """J08: any mix of answers to RCPT and after the dot, by LMTP."""
    rcpts = tuple(b"%d@example.net" % number for number in range(len(said)))
    later = [dot for rcpt, dot in said if rcpt.startswith(b"2")]
    peer = Peer({
        "LHLO": EXTENSIONS if pipelining else PLAIN,
        "RCPT": lambda line: said[int(line.partition(b"<")[2].partition(b"@")[0])][0] + b"\r\n",
        "DATA": b"354 go\r\n" if later else b"503 5.5.1 nobody\r\n",
        "DOT": b"".join(dot + b"\r\n" for dot in later),
    })  # fmt: skip

    async def scenario() -> list[Outcome]:
        async with on_port(peer, lmtp=True) as hop:
            return await _try(hop, job(rcpts))

    for (rcpt, dot), outcome in zip(said, run(scenario()), strict=True):
        last = dot if rcpt.startswith(b"2") else rcpt
        assert type(outcome) is _MEANING[last[:1]], (rcpt, dot)
        assert outcome.text.encode() == last
