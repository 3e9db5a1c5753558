"""SMTP and LMTP as clients: chunks, conversion, long lines, connections kept, odd sessions."""

from __future__ import annotations

import asyncio
import email
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryFile

import pytest

from milterd.core.mail import FileBody
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import PoolOptions, Reuse
from smtpgw.delivery.outcome import Deferred, Delivered, Failed, Job, Outcome, Target
from smtpgw.delivery.pool import Pool
from smtpgw.delivery.wire import Lost, Wire
from tests.delivery.peer import CLOSE, EXTENSIONS, STALL, Answer, Peer, job, on_port, pool
from tests.queue.support import run, until

_TWO = (b"a@example.net", b"b@example.net")
SEVEN = b"250-peer.example\r\n250 PIPELINING\r\n"
CHUNKING = EXTENSIONS.replace(b"250 SIZE", b"250-CHUNKING\r\n250 SIZE")
SLOW = b"250-peer.example\r\n250-8BITMIME\r\n250 CHUNKING\r\n"
"""Chunks without PIPELINING."""
LONG = b"x" * 3000 + b"\r\n"


def _deliver(
    peer: Peer, work: Job, *, lmtp: bool = False, client: Mapping[str, object] | None = None,
    **limits: float,
) -> Sequence[Outcome] | Lost:  # fmt: skip
    async def scenario() -> Sequence[Outcome] | Lost:
        async with on_port(peer, lmtp=lmtp) as hop:
            deliverer = pool(client=client, **limits)
            try:
                return await deliverer.deliver_to(hop, work)
            except Lost as error:
                return error
            finally:
                await deliverer.close()

    return run(scenario())


def _kinds(outcomes: Sequence[Outcome] | Lost) -> list[str]:
    assert not isinstance(outcomes, Lost), outcomes.text
    return [type(each).__name__ for each in outcomes]


def _offering(offers: bytes, **answers: Answer) -> Peer:
    return Peer({"EHLO": offers, "LHLO": offers, **answers})


# Chunks


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("offers", [CHUNKING, SLOW])
def test_a_message_in_chunks_is_the_message(offers: bytes, lmtp: bool) -> None:
    body = b".dot\r\n.\r\n" + b"\xe9" * 200_000 + b"\r\nno end"
    peer = _offering(offers, DOT=b"250 2.0.0 one\r\n" + b"452 4.2.2 two\r\n" * lmtp)
    peer.answers["BDAT"] = b"250 2.0.0 go on\r\n"
    outcomes = _deliver(peer, job(_TWO, body), lmtp=lmtp, client={"smtp_use_chunking": "always"})
    assert _kinds(outcomes) == ["Delivered", "Deferred" if lmtp else "Delivered"]
    assert peer.messages == [b"Subject: x\r\n\r\n" + body + b"\r\n"]
    assert "DATA" not in peer.verbs()
    assert peer.chunks == [65536, 65536, 65536, len(peer.messages[0]) - 3 * 65536]
    assert peer.commands[-2 if peer.verbs()[-1] == "QUIT" else -1].endswith(b" LAST\r\n")


@pytest.mark.parametrize(
    ("when", "text", "chunked"),
    [
        ("never", LONG, False),
        ("when needed", LONG, True),
        ("when needed", b"nul \0\r\n", True),
        ("when needed", b"plain\r\n", False),
        ("always", b"plain\r\n", True),
    ],
)
def test_when_chunks_are_used(when: str, text: bytes, chunked: bool) -> None:
    peer = _offering(CHUNKING)
    assert _kinds(_deliver(peer, job(text=text), client={"smtp_use_chunking": when}))
    assert ("BDAT" in peer.verbs()) is chunked
    if chunked:
        assert peer.messages == [b"Subject: x\r\n\r\n" + text]


def test_chunks_have_no_stray_line_end_either() -> None:
    peer = _offering(CHUNKING)
    work = job(text=b"a\rb\nc\r\n.\r\n\r", head=b"S: x\r\n\r\n")
    _deliver(peer, work, client={"smtp_use_chunking": "always"})
    assert peer.messages == [b"S: x\r\n\r\na b c\r\n.\r\n \r\n"]


@pytest.mark.parametrize("offers", [CHUNKING, SLOW])
@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"552 5.3.4 too big\r\n", "Failed", "552 5.3.4 too big"),
        (b"451 4.3.0 later\r\n", "Deferred", "451 4.3.0 later"),
        (b"421 4.3.2 bye\r\n" + CLOSE, "Deferred", "421 4.3.2 bye"),
        (b"354 go\r\n", "Deferred", "reply before the end"),
        (b"552 5.3.4 too big\r\n" + CLOSE, "Failed", "552 5.3.4 too big"),
        (CLOSE, "Deferred", ""),
        (STALL, "Deferred", "timed out"),
        (b"250 ok\r\n250 and more\r\n" * 3, "Deferred", ""),
    ],
)
def test_a_chunk_refused_is_the_message_refused(
    offers: bytes, answer: bytes, kind: str, words: str
) -> None:
    peer = _offering(offers, BDAT=answer)
    work = job(_TWO, b"x" * 1_000_000)
    outcomes = _deliver(
        peer, work, client={"smtp_use_chunking": "always"},
        smtp_data_done_timeout=0.4, smtp_data_xfer_timeout=0.4,
    )  # fmt: skip
    kinds = _kinds(outcomes)
    assert len(set(kinds)) == 1
    assert kinds[0] == kind or (kind == "Failed" and CLOSE in answer)  # the reset may come first
    assert words in outcomes[0].text or CLOSE in answer  # type: ignore[index] # not Lost, as seen
    assert peer.messages == []


@pytest.mark.parametrize("reply", [b"550 5.1.1 no\r\n", b"450 4.2.0 later\r\n"])
def test_nobody_accepted_means_no_chunk(reply: bytes) -> None:
    peer = _offering(CHUNKING, RCPT=reply)
    outcomes = _deliver(peer, job(_TWO), client={"smtp_use_chunking": "always"})
    assert len(set(_kinds(outcomes))) == 1
    assert peer.chunks == []


def test_chunks_and_kept_connections() -> None:
    async def scenario() -> None:
        peer = _offering(CHUNKING)
        async with on_port(peer) as hop:
            deliverer = pool(client={"smtp_use_chunking": "always"})
            for _ in range(3):
                assert _kinds(await deliverer.deliver_to(hop, job())) == ["Delivered"]
            await deliverer.close()
        assert peer.connections == 1
        assert len(peer.messages) == 3

    run(scenario())


# What a peer cannot take


def test_a_7_bit_peer_gets_the_mail_in_7_bits() -> None:
    peer = _offering(SEVEN)
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    text = "Grüße, and so on in plain words.\r\n.\r\n".encode()
    assert _kinds(_deliver(peer, job(head=head, text=text))) == ["Delivered"]
    (taken,) = peer.messages
    assert taken.isascii()
    assert b"BODY=" not in peer.commands[1]
    message = email.message_from_bytes(taken.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."))
    assert message.get_payload(decode=True) == text


def test_a_large_file_is_converted_as_it_is_read() -> None:
    line = "größer und größer, sagte sie.\r\n".encode()
    with TemporaryFile() as file:
        file.write(line * 100_000)
        body = FileBody(file, 0, 100_000 * len(line))
        work = Job("q", b"a@x", (), (Target(0, b"u@x"),), b"S: x\r\n\r\n", body)
        peer = _offering(SEVEN)
        assert _kinds(_deliver(peer, work)) == ["Delivered"]
    (taken,) = peer.messages
    message = email.message_from_bytes(taken.removesuffix(b".\r\n"))
    assert message.get_payload(decode=True) == line * 100_000


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    ("work", "client", "words"),
    [
        (job(text=b"\xff\r\n"), {"disable_mime_output_conversion": True}, "peer does not take"),
        (job(head=b"Subject: \xff\r\n\r\n"), {}, "a header field that is 8-bit"),
        (
            job(
                head=b"Content-Type: multipart/signed; boundary=b\r\n\r\n",
                text=b"--b\r\n\r\n\xff\r\n--b--\r\n",
            ),
            {},
            "signed or encrypted",
        ),
    ],
)
def test_what_cannot_be_converted_is_bounced_with_the_reason(
    work: Job, client: Mapping[str, object], words: str, lmtp: bool
) -> None:
    peer = _offering(SEVEN)
    outcomes = _deliver(peer, work, client=client, lmtp=lmtp)
    assert _kinds(outcomes) == ["Failed"]
    failed = outcomes[0]  # type: ignore[index] # not Lost, as seen
    assert isinstance(failed, Failed)
    assert failed.enhanced == "5.6.3"
    assert words in failed.text
    assert peer.messages == []


def test_a_peer_that_knows_only_helo_takes_7_bits() -> None:
    greeting = {"EHLO": b"502 what\r\n", "HELO": b"250-peer\r\n250-8BITMIME\r\n250 SIZE 1\r\n"}
    peer = Peer(greeting)
    assert _kinds(_deliver(peer, job(text=b"caf\xe9, plain otherwise\r\n"))) == ["Delivered"]
    assert peer.messages[0].isascii()
    assert peer.commands[2] == b"MAIL FROM:<a@example.com>\r\n"


def test_long_lines_are_broken_for_a_peer_without_chunks() -> None:
    peer = _offering(EXTENSIONS)
    _deliver(peer, job(text=LONG + b"short\r\n", head=b"S: " + b"y" * 998 + b"\r\n\r\n"))
    (taken,) = peer.messages
    assert max(map(len, taken.split(b"\r\n"))) == 998
    assert taken.replace(b"\r\n ", b"") == b"S: " + b"y" * 998 + b"\r\n\r\n" + LONG + (
        b"short\r\n.\r\n"
    )


def test_a_limit_of_the_postmaster_s_own() -> None:
    peer = _offering(EXTENSIONS)
    _deliver(peer, job(text=b"z" * 50 + b"\r\n"), client={"smtp_line_length_limit": 20})
    assert b"z" * 20 + b"\r\n " + b"z" * 19 + b"\r\n " in peer.messages[0]


# Connections


def test_a_connection_carries_so_many_mails_and_no_more() -> None:
    async def scenario() -> None:
        peer = Peer()
        async with on_port(peer) as hop:
            deliverer = pool(reuse=Reuse(cache_time=5, reuse_count=2))
            for _ in range(5):
                await deliverer.deliver_to(hop, job())
            assert peer.connections == 3
            await deliverer.close()

    run(scenario())


@pytest.mark.parametrize(
    "answer", [b"500 5.5.1 what?\r\n", b"421 4.3.2 bye\r\n" + CLOSE, CLOSE, STALL]
)
@pytest.mark.parametrize("batched", [True, False])
def test_a_kept_connection_that_does_not_answer_as_it_should_is_replaced(
    answer: bytes, batched: bool
) -> None:
    async def scenario() -> None:
        ok = b"250 ok\r\n"
        peer = Peer(
            {"MAIL": [ok, answer, ok]} if batched else {"RSET": answer, "EHLO": b"250 peer\r\n"}
        )
        async with on_port(peer) as hop:
            deliverer = pool(smtp_rset_timeout=0.1)
            for _ in range(2):
                assert _kinds(await deliverer.deliver_to(hop, job())) == ["Delivered"]
            assert peer.connections == 2
            await deliverer.close()

    run(scenario())


@pytest.mark.parametrize("reuse", [Reuse(cache_time=0), Reuse(reuse_time=0)])
def test_a_connection_is_not_kept_where_it_should_not(reuse: Reuse) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with on_port(peer) as hop:
            deliverer = pool(reuse=reuse)
            for _ in range(2):
                await deliverer.deliver_to(hop, job())
            await until(lambda: peer.verbs().count("QUIT") == 2)
            await deliverer.close()

    run(scenario())


def test_a_pool_remembers_nothing_of_hosts_to_which_nothing_is_open() -> None:
    async def scenario() -> None:
        peer = Peer()
        async with on_port(peer) as hop:
            deliverer = pool(reuse=Reuse(cache_time=60))
            with pytest.raises(Lost):
                await deliverer.deliver_to(replace(hop, address="127.0.0.2"), job())
            assert not deliverer._lanes
            for connections in (1, 2):
                for _ in range(2):
                    await deliverer.deliver_to(hop, job())
                assert peer.connections == connections
                (lane,) = deliverer._lanes.values()
                (kept,) = lane.idle
                kept.until = 0.0
                deliverer._sweep()
                assert not deliverer._lanes
            await deliverer.close()

    run(scenario())


def test_idle_connections_are_bounded_over_all_peers() -> None:
    async def scenario() -> None:
        deliverer = Pool(PoolOptions(idle=2, smtp_reuse=Reuse(60)))
        peers = [Peer() for _ in range(4)]
        async with on_port(peers[0]) as a, on_port(peers[1]) as b, on_port(peers[2]) as c:
            for hop in (a, b, c, a, b):
                await deliverer.deliver_to(hop, job())
            await until(lambda: "QUIT" in peers[2].verbs())
            assert [each.connections for each in peers[:3]] == [1, 1, 1]
            assert [each.verbs().count("QUIT") for each in peers[:2]] == [0, 0]
            await deliverer.close()

    run(scenario())


def test_nothing_is_left_of_ways_whose_connections_are_not_kept() -> None:
    async def scenario() -> None:
        async with on_port(Peer()) as a, on_port(Peer()) as b:
            deliverer = Pool(PoolOptions(smtp_reuse=Reuse(0)))
            for hop in (a, b, a):
                await deliverer.deliver_to(hop, job())
            assert not deliverer._lanes
            await deliverer.close()

    run(scenario())


def test_a_connection_that_is_given_back_after_the_close_is_the_only_one() -> None:
    async def scenario() -> None:
        peer = Peer()
        async with on_port(peer) as hop:
            deliverer = Pool(PoolOptions(smtp_reuse=Reuse(60)))
            await asyncio.gather(*(deliverer.deliver_to(hop, job()) for _ in range(2)))
            (lane,) = deliverer._lanes.values()
            kept = deliverer._take(lane)
            assert kept is not None
            await deliverer.close()
            deliverer._give_back(lane, kept)
            assert deliverer._resting == 1
            assert lane.idle == [kept]
            await deliverer.close()

    run(scenario())


def test_idle_connections_are_bounded_for_each_peer() -> None:
    async def scenario() -> None:
        peer = Peer()
        async with on_port(peer) as hop:
            deliverer = Pool(PoolOptions(kept=2, smtp_reuse=Reuse(60)))
            await asyncio.gather(*(deliverer.deliver_to(hop, job()) for _ in range(5)))
            await until(lambda: peer.verbs().count("QUIT") == 3)
            await asyncio.gather(*(deliverer.deliver_to(hop, job()) for _ in range(2)))
            assert peer.connections == 5
            await deliverer.close()

    run(scenario())


def test_a_peer_that_reads_no_more_is_closed_in_time() -> None:
    """smtp_quit_timeout: what is still to be sent does not hold a connection for ever."""

    async def scenario() -> None:
        async def deaf(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(30)

        server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1000)
        port = server.sockets[0].getsockname()[1]
        open_ = asyncio.get_running_loop().create_connection(Wire, "127.0.0.1", port)
        transport, wire = await open_
        transport.write(b"x" * 50_000_000)
        wire.close(0.1)
        await until(lambda: not wire.alive, 2)
        server.close()

    run(scenario())


def test_nobody_waits_for_the_answer_to_quit() -> None:
    """As with smtp_skip_quit_response; the peer sees the end of the connection all the same."""

    async def scenario() -> None:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Peer({"QUIT": b""}).serve(reader, writer)
            assert await reader.read() == b""
            ended.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        there = Hop("x", "mx", "127.0.0.1", server.sockets[0].getsockname()[1])
        deliverer = pool(reuse=Reuse(cache_time=0))
        await deliverer.deliver_to(there, job())
        await asyncio.wait_for(deliverer.close(), 1)
        await asyncio.wait_for(ended.wait(), 1)
        server.close()

    run(scenario())


def test_connections_come_from_the_address_given() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peername")[0])
            await Peer().serve(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        there = Hop("example.net", "mx", "127.0.0.1", server.sockets[0].getsockname()[1])
        for source, expected in (("127.0.0.9", "127.0.0.9"), ("", "127.0.0.1")):
            deliverer = Pool(PoolOptions(smtp_bind_address=source))
            assert _kinds(await deliverer.deliver_to(there, job())) == ["Delivered"]
            await deliverer.close()
            assert seen.pop() == expected
        nowhere = Pool(PoolOptions(smtp_bind_address="192.0.2.7"))
        with pytest.raises(Lost, match="Cannot assign"):
            await nowhere.deliver_to(there, job())
        server.close()

    run(scenario())


# Odd sessions, with and without PIPELINING

BEFORE_MAIL: list[tuple[str, Mapping[str, Answer]]] = [
    ("banner 5xx", {"CONNECT": b"554 5.7.1 go away\r\n"}),
    ("banner 4xx", {"CONNECT": b"450 4.3.2 later\r\n"}),
    ("banner 421", {"CONNECT": b"421 4.3.2 later\r\n" + CLOSE}),
    ("banner twice", {"CONNECT": b"220 one\r\n220 two\r\n"}),
    ("banner closed", {"CONNECT": CLOSE}),
    ("banner never", {"CONNECT": STALL}),
    ("banner endless", {"CONNECT": b"220-x\r\n" * 200}),
    ("banner two codes", {"CONNECT": b"220-x\r\n550 y\r\n"}),
    ("ehlo closed", {"EHLO": CLOSE}),
    ("ehlo 421", {"EHLO": b"421 4.3.2 later\r\n" + CLOSE}),
    ("ehlo 4xx", {"EHLO": b"450 4.3.2 later\r\n"}),
    ("ehlo twice", {"EHLO": EXTENSIONS + EXTENSIONS}),
    ("ehlo 354", {"EHLO": b"354 go\r\n"}),
    ("helo 5xx", {"EHLO": b"500 no\r\n", "HELO": b"550 no\r\n"}),
    ("helo closed", {"EHLO": b"500 no\r\n", "HELO": CLOSE}),
]


@pytest.mark.parametrize("answers", [each[1] for each in BEFORE_MAIL],
                         ids=[each[0] for each in BEFORE_MAIL])  # fmt: skip
def test_before_any_mail_another_host_may_be_tried(answers: Mapping[str, Answer]) -> None:
    peer = Peer(answers)  # type: ignore[arg-type] # a Mapping of either is both
    lost = _deliver(peer, job(_TWO), smtp_helo_timeout=0.3)
    assert isinstance(lost, Lost)
    assert lost.next_host
    assert lost.enhanced[0] == "4", "nobody is bounced for a host's mood"
    assert "MAIL" not in peer.verbs()


def test_a_421_speaks_for_all_that_comes_after() -> None:
    for verb in ("MAIL", "RCPT", "DATA", "DOT", "RSET"):
        for offers in (EXTENSIONS, b"250 peer\r\n"):
            peer = _offering(offers, **{verb: b"421 4.3.2 going down\r\n" + CLOSE})
            outcomes = _deliver(peer, job(_TWO))
            wanted = "Delivered" if verb == "RSET" else "Deferred"
            assert _kinds(outcomes) == [wanted] * 2, (verb, offers)


@pytest.mark.parametrize("offers", [EXTENSIONS, b"250-peer\r\n250 8BITMIME\r\n"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("how", [CLOSE, b"25", b"250-half\r\n" + CLOSE, b"\0\xff\r\n"])
def test_a_connection_lost_at_any_point_defers(verb: str, how: bytes, offers: bytes) -> None:
    peer = _offering(offers, **{verb: how if CLOSE in how or b"\r\n" in how else how + STALL})
    outcomes = _deliver(
        peer, job(_TWO), smtp_mail_timeout=0.2, smtp_rcpt_timeout=0.2,
        smtp_data_init_timeout=0.2, smtp_data_done_timeout=0.2,
    )  # fmt: skip
    assert _kinds(outcomes) == ["Deferred"] * 2


def test_each_wait_has_its_own_limit() -> None:
    for verb, name in (
        ("EHLO", "helo"), ("MAIL", "mail"), ("RCPT", "rcpt"), ("DATA", "data_init"),
        ("DOT", "data_done"),
    ):  # fmt: skip
        peer = _offering(EXTENSIONS, **{verb: STALL})
        result = _deliver(peer, job(), **{f"smtp_{name}_timeout": 0.1})
        said = result.text if isinstance(result, Lost) else result[0].text
        assert "timed out" in said, verb


def test_each_recipient_has_its_own_word_at_rcpt() -> None:
    words = {b"a": b"250 ok\r\n", b"b": b"450 4.2.1 busy\r\n", b"c": b"550 5.1.1 none\r\n"}
    peer = Peer({"RCPT": lambda line: words[line[9:10]]})
    outcomes = _deliver(peer, job(tuple(each + b"@x" for each in words)))
    assert not isinstance(outcomes, Lost)
    assert [type(each) for each in outcomes] == [Delivered, Deferred, Failed]
    assert [each.enhanced for each in outcomes] == ["2.0.0", "4.2.1", "5.1.1"]


_ANSWERS = [b"250 ok\r\n", b"354 go\r\n", b"450 4.1.0 n\r\n", b"550 5.1.0 n\r\n", b"421 x\r\n",
            b"250-a\r\n250 b\r\n", b"250 a\r\n250 b\r\n", b"999 x\r\n", b"", CLOSE,
            b"250-a\r\n550 b\r\n", b"x", b"\r\n", b"252 2.0.0 m\r\n"]  # fmt: skip


def _moody(chance: random.Random) -> Callable[[bytes], bytes]:
    return lambda _line: chance.choice(_ANSWERS)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_peer_does_everybody_has_one_outcome(seed: int) -> None:
    """And delivered is only what a peer took whole, with its own 2xx at the end."""
    chance = random.Random(seed)
    verbs = chance.sample(["MAIL", "RCPT", "DATA", "DOT", "RSET", "EHLO", "CONNECT", "BDAT"], 2)
    offers = chance.choice([EXTENSIONS, CHUNKING, SLOW, SEVEN])
    peer = _offering(offers, **{each: _moody(chance) for each in verbs})
    client = {"smtp_use_chunking": chance.choice(["never", "always"])}
    short = {f"smtp_{each}_timeout": 0.05 for each in
             ("helo", "mail", "rcpt", "data_init", "data_done", "rset", "data_xfer")}  # fmt: skip
    work = job(tuple(b"%d@x" % n for n in range(3)), b"y" * 100_000)
    outcomes = _deliver(peer, work, client=client, **short)
    if isinstance(outcomes, Lost):
        assert peer.messages == []
        return
    assert [each.number for each in outcomes] == [0, 1, 2]
    if any(isinstance(each, Delivered) for each in outcomes):
        assert peer.messages
