"""Commands obeyed where they come in: what waits is gone on with by the session's task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast

import pytest

from milterd.base import logs
from milterd.core.mail import Envelope
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import Path
from smtpgw.edge.content import Content
from smtpgw.edge.listener import Listener
from smtpgw.edge.options import Deadlines, Limits
from smtpgw.edge.protocol import GatewaySMTP
from smtpgw.edge.road import Answer, Connection, Road
from tests.edge.harness import PATIENCE, QUICK, Ledger, RecordingRoad


async def until(what: Callable[[], bool]) -> None:
    """Until it is so, in as many turns of the loop as it takes."""
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110 - nothing tells of it but looking
            await asyncio.sleep(0)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711), "sockname": ("192.0.2.2", 25)})
        self.said = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


class Slow(RecordingRoad):
    """A road whose steps wait until they may go on."""

    def __init__(self, ledger: Ledger, connection: Connection) -> None:
        super().__init__(ledger, connection)
        self.slow: set[str] = set()
        self.go_on = asyncio.Event()
        self.seen: list[str] = []

    async def _paused(self, name: str) -> None:
        if name not in self.slow:
            return
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.seen.append(f"{name} cancelled")
            raise

    async def mail(self, sender: Path, params: MailParams) -> Answer | None:
        await self._paused("mail")
        return await super().mail(sender, params)

    async def rcpt(self, recipient: Path, params: RcptParams) -> Answer | None:
        await self._paused("rcpt")
        return await super().rcpt(recipient, params)

    def now(self, name: str) -> bool:
        return name not in self.slow and super().now(name)

    async def message(self, envelope: Envelope, content: Content) -> Answer:
        await self._paused("message")
        return await super().message(envelope, content)


class Door(Ledger):
    """Keeps the road of its last session."""

    road: Slow

    def session(self, connection: Connection) -> RecordingRoad:
        self.open += 1
        self.road = Slow(self, connection)
        return self.road


class Line:
    """One session on a wire."""

    def __init__(
        self,
        deadlines: Deadlines = QUICK.deadlines,
        hard: int = 20,
        limits: Limits | None = None,
    ) -> None:
        self.door, self.wire = Door(), Wire()
        limits = limits or Limits(error_sleep_time=0.0, hard_error_limit=hard)
        options = replace(QUICK, deadlines=deadlines, limits=limits)
        listener = Listener(options, cast(Road, self.door), log=logs.get("edge"))
        self.protocol: GatewaySMTP = listener._protocol()
        self.protocol.connection_made(self.wire)

    def hear(self, data: bytes) -> bytes:
        """What is said to it before anything else can happen."""
        before = len(self.wire.said)
        # Called by the loop and not by a task, as a transport does.
        self.protocol.data_received(data)
        return self.wire.said[before:]

    async def said(self, ends: bytes) -> bytes:
        """All that was said, once it ends so."""
        await until(lambda: self.wire.said.endswith(ends))
        return self.wire.said


def talk(line: Callable[[], Line], then: Callable[[Line], Awaitable[None]]) -> None:
    """Hold a dialogue in a loop of its own."""

    async def begun() -> None:
        made = line()
        await made.said(b"ESMTP Gatepost\r\n")
        await asyncio.sleep(0)
        await then(made)
        made.protocol.connection_lost(None)
        await until(lambda: not made.door.open)

    asyncio.run(begun())


async def heard(line: Line, data: bytes) -> bytes:
    """What is said in the callback that brings the data."""
    found = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: found.set_result(line.hear(data)))
    return cast(bytes, await found)


def test_what_need_not_wait_is_answered_where_it_comes_in() -> None:
    async def dialogue(line: Line) -> None:
        assert (await heard(line, b"HELO x\r\n")).startswith(b"250 ")
        assert await heard(line, b"MAIL FROM:<a@example.net>\r\n") == b"250 2.1.0 Ok\r\n"
        assert await heard(line, b"RCPT TO:<b@exam") == b""
        assert await heard(line, b"ple.net>\r\n") == b"250 2.1.5 Ok\r\n"
        answers = await heard(line, b"RSET\r\nNOOP\r\nFROB\r\nQUIT\r\n")
        assert [each[:3] for each in answers.split(b"\r\n")] == [
            b"250",
            b"250",
            b"500",
            b"221",
            b"",
        ]
        await until(lambda: line.wire.closed)

    talk(Line, dialogue)


def test_what_waits_is_gone_on_with_and_all_behind_it_keeps_its_turn() -> None:
    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        line.door.road.slow = {"mail", "message"}
        assert await heard(line, b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n") == b""
        assert await heard(line, b"DATA\r\n") == b""
        line.door.road.go_on.set()
        assert (await line.said(b"<CR><LF>\r\n")).count(b"250 2.1") == 2
        line.door.road.go_on.clear()
        assert await heard(line, b"Subject: x\r\n\r\ny\r\n.\r\nNOOP\r\n") == b""
        line.door.road.go_on.set()
        assert b"queued as 1\r\n250 2.0.0 Ok\r\n" in await line.said(b"2.0.0 Ok\r\n")
        assert [each.octets for each in line.door.accepted] == [b"Subject: x\r\n\r\ny\r\n"]

    talk(Line, dialogue)


def test_a_step_begun_there_has_its_limit() -> None:
    def short() -> Line:
        return Line(replace(QUICK.deadlines, processing=0.05))

    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        line.door.road.slow = {"mail"}
        await heard(line, b"MAIL FROM:<a@b.example>\r\n")
        await until(lambda: b"451 4.3.0" in line.wire.said)
        assert line.door.road.seen == ["mail cancelled"]
        line.door.road.slow = set()
        assert await heard(line, b"MAIL FROM:<a@b.example>\r\n") == b"250 2.1.0 Ok\r\n"

    talk(short, dialogue)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_client_that_goes_while_a_step_waits_ends_it(at_once: bool) -> None:
    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        line.door.road.slow = {"mail"}

        def both() -> None:
            line.hear(b"MAIL FROM:<a@b.example>\r\n")
            if at_once:  # before the task has the step in its hands
                line.protocol.connection_lost(None)

        asyncio.get_running_loop().call_soon(both)
        if not at_once:
            await until(lambda: line.protocol._begun is None and line.protocol._parked is None)
            line.protocol.connection_lost(None)
        await until(lambda: not line.door.open)
        assert line.door.road.seen == ["mail cancelled"]

    async def begun() -> None:
        line = Line()
        await line.said(b"ESMTP Gatepost\r\n")
        await asyncio.sleep(0)
        await dialogue(line)

    asyncio.run(begun())


def test_the_time_for_a_command_begins_with_the_answer_before_it() -> None:
    async def dialogue(line: Line) -> None:
        protocol = line.protocol
        before = protocol._began
        await heard(line, b"NOOP\r\n")
        began = protocol._began
        assert before < began
        await heard(line, b"NO")  # half a line wins no time
        await until(lambda: protocol._parked is not None)
        assert (protocol._began, protocol._since) == (began, began)

    talk(Line, dialogue)


def test_a_session_that_has_to_end_is_ended_after_its_transaction() -> None:
    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        await heard(line, b"MAIL FROM:<a@b.example>\r\n")
        line.protocol.drain()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await heard(line, b"RSET\r\n")
        assert (await line.said(b"shutting down\r\n")).endswith(
            b"421 4.3.2 Service shutting down\r\n"
        )

    talk(Line, dialogue)


def test_the_tarpit_begins_at_the_soft_limit() -> None:  # B28
    async def dialogue(line: Line) -> None:
        clock, times = asyncio.get_running_loop().time, []
        for each, code in ((b"BLAH", 500), (b"BLAH", 500), (b"NOOP", 250), (b"BLAH", 500)):
            begin, line.wire.said = clock(), b""
            await heard(line, each + b"\r\n")
            assert (await line.said(b"\r\n")).startswith(b"%d " % code)
            times.append(clock() - begin)
        assert max(times[:2]) < 0.5 < min(times[2:4])
        line.wire.said = b""
        await heard(line, b"BLAH\r\n")
        await until(lambda: line.wire.closed)
        assert line.wire.said.startswith(b"500 ")
        assert b"\r\n421 4.7.0 " in line.wire.said

    limits = Limits(soft_error_limit=2, hard_error_limit=4, error_sleep_time=0.6)
    talk(lambda: Line(limits=limits), dialogue)
