"""The scripted milter and the sink, as parts for a program of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.base.sockets import parse
from milterd.core.mail import Family
from milterd.lab import sink
from milterd.lab.link import Fault, Link, MilterError, Patience, connect
from milterd.lab.mta import smtp
from milterd.lab.server import Do, Heard, Milter, Plan, Terms, Wait, serve
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.frames import frame
from tests.peers.process import free_port

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await main

    return asyncio.run(bounded())


async def greet(link: Link) -> list[m.Reply]:
    """A session up to HELO; the answers to CONNECT."""
    await link.negotiate()
    answers = await link.say(m.Connect(b"client", Family.INET, 25, b"192.0.2.1"))
    await link.say(m.Helo(b"client"))
    return answers


async def mail(link: Link) -> list[m.Reply]:
    """A whole mail; the answers to its end."""
    for event in (m.MailFrom(b"<a@b>"), m.RcptTo(b"<c@d>"), m.Data(), m.EndOfHeaders()):
        await link.say(event, [(b"i", b"Q")])
    return await link.say(m.EndOfMessage())


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_a_plan_is_followed_and_all_is_heard(peer_directory: Path, kind: str) -> None:
    address = f"unix:{peer_directory}/m" if kind == "unix" else f"inet:{free_port()}@127.0.0.1"
    edits = [m.AddHeaderReply(b"X", b"y"), Wait(0.01), m.Progress(), m.Accept()]

    async def main() -> tuple[list[m.Reply], Heard]:
        async with serve(address) as milter:
            visit = milter.expect(Plan({m.EndOfMessage: edits}))
            async with connect(address) as link:
                await greet(link)
                answers = await mail(link)
                await link.bye()
            await visit.ended()
            return answers, visit.heard

    answers, heard = run(main())
    assert answers == [m.AddHeaderReply(b"X", b"y"), m.Progress(), m.Accept()]
    assert heard.kinds()[:6] == ["Negotiate", "Connect", "Helo", "MailFrom", "RcptTo", "Data"]
    assert heard.kinds()[-1] == "Quit"
    assert heard.macros(m.RcptTo) == {"i": b"Q"}
    assert heard.macros(m.Connect) == {}
    assert (heard.fault, heard.broken_off) == ("", False)


def test_connections_take_their_visits_in_order(peer_directory: Path) -> None:
    async def main() -> list[list[m.Reply]]:
        address, found = f"unix:{peer_directory}/m", []
        async with serve(address, Plan({m.Connect: m.TempFail()})) as milter:
            milter.expect(Plan({m.Connect: m.Reject()}))
            milter.forget(milter.expect(Plan({m.Connect: m.Discard()})))
            for _ in range(2):
                async with connect(address) as link:
                    await link.negotiate()
                    found.append(await link.say(m.Connect(b"client")))
        return found

    assert run(main()) == [[m.Reject()], [m.TempFail()]]


def test_an_answer_may_depend_on_the_event_and_its_number(peer_directory: Path) -> None:
    def choose(event: m.CommandMessage, number: int) -> m.Reply:
        bad = isinstance(event, m.RcptTo) and event.address == b"<bad@d>"
        return m.Reject() if bad or number == 2 else m.Continue()

    async def main() -> list[m.Reply]:
        address = f"unix:{peer_directory}/m"
        async with serve(address, Plan({m.RcptTo: choose})), connect(address) as link:
            await greet(link)
            await link.say(m.MailFrom(b"<a@b>"))
            names = (b"<bad@d>", b"<good@d>", b"<third@d>")
            return [(await link.say(m.RcptTo(each)))[0] for each in names]

    assert run(main()) == [m.Reject(), m.Continue(), m.Reject()]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [(Do.CLOSE, Fault.GONE), (Do.SILENCE, Fault.SILENT), (frame(b"Z"), Fault.BROKEN)],
)
@pytest.mark.parametrize("at", ["offer", "connect"])
def test_ways_to_fail(peer_directory: Path, answer: Any, fault: Fault, at: str) -> None:
    plan = Plan(terms=Terms(answer=answer)) if at == "offer" else Plan({m.Connect: answer})

    async def main() -> None:
        address = f"unix:{peer_directory}/m"
        async with serve(address, plan), connect(address, patience=Patience(0.3, 5.0)) as link:
            await greet(link)

    with pytest.raises(MilterError) as caught:
        run(main())
    assert caught.value.fault is fault


def test_what_is_negotiated_is_what_was_wished(peer_directory: Path) -> None:
    terms = Terms(4, Actions.ADDHDRS, Protocol.NOHELO)

    async def main() -> Any:
        address = f"unix:{peer_directory}/m"
        async with serve(address, Plan(terms=terms)), connect(address) as link:
            return await link.negotiate()

    agreed = run(main())
    assert (agreed.version, agreed.actions) == (4, Actions.ADDHDRS)
    assert agreed.protocol == Protocol.NOHELO


def test_a_broken_rule_of_the_mta_is_a_fault_with_its_place(peer_directory: Path) -> None:
    async def main() -> Heard:
        address = f"unix:{peer_directory}/m"
        async with serve(address) as milter:
            visit = milter.expect(Plan())
            async with connect(address) as link:
                await link.negotiate()
                await link.write(m.RcptTo(b"<c@d>").encode())
                assert await link.closed()
            await visit.ended()
            return visit.heard

    assert run(main()).fault == "by octet 28: RcptTo negotiated, no client"


def test_nobody_listens_while_it_is_shut(peer_directory: Path) -> None:
    async def tried(address: str) -> bool:
        try:
            async with connect(address) as link:
                await link.negotiate()
        except MilterError:
            return False
        return True

    async def main() -> list[bool]:
        address = f"unix:{peer_directory}/m"
        milter = Milter(parse(address), Plan())
        await milter.open()
        found = [await tried(address)]
        milter.shut()
        found.append(await tried(address))
        await milter.open()
        found.append(await tried(address))
        await milter.close()
        return found

    assert run(main()) == [True, False, True]


# --- the sink ---


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([b".", b"..", b".x", b"", b"Subject: x"]), st.binary(max_size=20)
        ),
        max_size=8,
    )
)
def test_what_is_sent_is_kept_to_the_octet(lines: list[bytes]) -> None:
    clean = [each.replace(b"\r", b"").replace(b"\n", b"") for each in lines]
    message = b"".join(each + b"\r\n" for each in clean)

    async def main() -> list[sink.Delivered]:
        address = f"127.0.0.1:{free_port()}"
        async with sink.serve(address) as taken, smtp.connect(parse(address), 5.0) as client:
            await client.answer()
            await client.say(b"EHLO client")
            told = await client.send(message, b"token@a", [b"b@c"], mail_args=b" RET=HDRS")
            assert told.taken
            return taken.of(b"token")

    (found,) = run(main())
    assert found.octets == message
    assert found.sender == sink.Address(b"token@a", (b"RET=HDRS",))
    assert found.recipients == (sink.Address(b"b@c"),)


def test_lmtp_answers_for_each_recipient(peer_directory: Path) -> None:
    async def main() -> tuple[list[int], int]:
        address = f"unix:{peer_directory}/lmtp"
        async with sink.serve(address) as taken, smtp.connect(parse(address), 5.0) as client:
            await client.answer()
            assert "DSN" in (await client.say(b"LHLO client")).lines
            told = await client.send(b"x\r\n", b"a@b", [b"one@c", b"two@c"])
            codes = [told.last.code, (await client.answer()).code]
            assert len(await taken.wait(b"one@c", 2)) == 1
            return codes, (await client.say(b"NOOP")).code

    assert run(main()) == ([250, 250], 250)
