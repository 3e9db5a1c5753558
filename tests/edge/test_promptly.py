"""A message that is read where it comes in, and what may come between."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from smtpgw.edge.content import Content
from smtpgw.edge.data import DataReader
from smtpgw.edge.road import Answer
from tests.edge.harness import QUICK
from tests.edge.test_turns import Line, heard, talk, until

OK, GO = b"250 2.1.", b"354 End data with <CR><LF>.<CR><LF>\r\n"
MESSAGE = b"Subject: x\r\n\r\ny\r\n"
QUEUED = b"250 2.0.0 Ok: queued as 1\r\n"


async def begun(line: Line) -> None:
    """Up to the message."""
    assert (await heard(line, b"HELO x\r\n")).startswith(b"250 ")
    assert (await heard(line, b"MAIL FROM:<a@b.example>\r\n")).startswith(OK)
    assert (await heard(line, b"rcpt TO:<c@d.example>\r\n")).startswith(OK)
    assert (await heard(line, b"RCPT TO:<e@d.example>\r\n")).startswith(OK)
    assert await heard(line, b"DATA\r\n") == GO
    assert line.protocol._parked is not None, "the session's task sleeps"


def octets(line: Line) -> list[bytes]:
    return [each.octets for each in line.door.accepted]


def test_the_task_of_a_session_sleeps_through_a_mail() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        parked = line.protocol._parked
        for each in (b"Subject: x\r", b"\n\r\ny\r\n", b".\r"):
            assert await heard(line, each) == b""
        assert (await heard(line, b"\n")).endswith(QUEUED)
        assert line.protocol._parked is parked
        assert not parked.done()
        assert octets(line) == [MESSAGE]
        assert line.door.accepted[0].recipients == [b"c@d.example", b"e@d.example"]
        assert (await heard(line, b"MAIL FROM:<a@b.example>\r\n")).startswith(OK)
        assert line.door.calls.count("message") == 1

    talk(Line, dialogue)


def test_what_is_behind_the_dot_is_answered_after_it() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        line.door.road.slow = {"message"}
        assert await heard(line, MESSAGE + b".\r\nNOOP\r\n") == b""
        assert await heard(line, b"RSET\r\n") == b""
        line.door.road.go_on.set()
        assert (await line.said(b"250 2.0.0 Ok\r\n" * 2)).endswith(QUEUED + b"250 2.0.0 Ok\r\n" * 2)

    talk(Line, dialogue)


def test_what_comes_before_the_answer_is_answered_after_it() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        line.door.road.slow = {"message"}
        for each in (MESSAGE, b".\r\n", b"NOOP\r\n"):
            assert await heard(line, each) == b""
        line.door.road.go_on.set()
        assert (await line.said(b" Ok\r\n")).endswith(QUEUED + b"250 2.0.0 Ok\r\n")

    talk(Line, dialogue)


def test_who_takes_no_answers_is_waited_for_and_dropped() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        line.protocol.pause_writing()
        await heard(line, MESSAGE + b".\r\n")
        await line.said(QUEUED)
        assert line.protocol._flushing
        await until(lambda: line.wire.closed)

    deadlines = replace(QUICK.deadlines, smtpd_timeout=0.3)
    talk(lambda: Line(deadlines), dialogue)


def test_a_refused_message_is_refused_and_the_session_goes_on() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        assert await heard(line, b"Subject: x\r\n\r\na\rb\r\n.\r\n") == b""
        await line.said(b"must end in <CR><LF>\r\n")
        line.door.answers["message"] = Answer(554, "5.7.1", "no")
        for verb in (b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n"):
            assert (await heard(line, verb)).startswith(OK)
        assert await heard(line, b"DATA\r\n") == GO
        await heard(line, MESSAGE + b".\r\n")
        await line.said(b"554 5.7.1 no\r\n")
        assert line.protocol._budget._errors == 2
        assert await heard(line, b"NOOP\r\n") == b"250 2.0.0 Ok\r\n"

    talk(Line, dialogue)


def test_a_fault_of_ours_while_reading_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)

        def broken(*_: object) -> int:
            raise RuntimeError("ours")

        monkeypatch.setattr("smtpgw.edge.data.DataReader.feed", broken)
        await heard(line, MESSAGE)
        await until(lambda: line.wire.closed)
        assert b"451 4.3.0 Internal error" in line.wire.said

    talk(Line, dialogue)


@pytest.mark.parametrize("grace", [True, False])
def test_a_message_that_comes_too_slowly_is_given_up(grace: bool) -> None:
    deadlines = replace(QUICK.deadlines, **{"data" if grace else "smtpd_timeout": 0.1})

    async def dialogue(line: Line) -> None:
        await begun(line)
        await heard(line, b"Subject: x\r\n\r\n")
        assert (await line.said(b"Timeout exceeded\r\n")).count(b"421") == 1
        await until(lambda: line.wire.closed)
        assert not octets(line)
        assert line.protocol._incoming is None

    talk(lambda: Line(deadlines), dialogue)


def test_its_time_runs_once() -> None:
    """The session's task does not begin another wait with all of its time."""
    deadlines = replace(QUICK.deadlines, smtpd_timeout=0.1)

    async def dialogue(line: Line) -> None:
        waits: list[float] = []
        wait = line.protocol._wait

        async def noted(began: float, until: float = math.inf) -> None:
            waits.append(began)
            await wait(began, until)

        line.protocol._wait = noted  # type: ignore[method-assign]
        await begun(line)
        await heard(line, b"Subject: x\r\n\r\n")
        await line.said(b"Timeout exceeded\r\n")
        assert not waits

    talk(lambda: Line(deadlines), dialogue)


def test_far_too_much_ends_the_connection() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        await heard(line, b"x" * 100)
        line.protocol._incoming._allowed = 150  # type: ignore[union-attr]
        await heard(line, b"x" * 100)
        await line.said(b"far beyond the size limit\r\n")
        await until(lambda: line.wire.closed)

    talk(Line, dialogue)


def test_a_session_that_has_to_end_ends_after_the_answer() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        await heard(line, b"Subject: x\r\n")
        line.protocol.drain()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        line.door.road.slow = {"message"}
        await heard(line, b"\r\ny\r\n.\r\n")
        line.door.road.go_on.set()
        said = await line.said(b"shutting down\r\n")
        assert said.endswith(QUEUED + b"421 4.3.2 Service shutting down\r\n")

    talk(Line, dialogue)


def test_one_that_has_to_end_while_it_waits_for_the_answer_hears_that_first() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        line.door.road.slow = {"message"}
        await heard(line, MESSAGE + b".\r\n")
        line.protocol.drain()
        for _ in range(4):
            await asyncio.sleep(0)
        assert line.wire.said.endswith(GO)
        line.door.road.go_on.set()
        said = await line.said(b"shutting down\r\n")
        assert said.endswith(QUEUED + b"421 4.3.2 Service shutting down\r\n")

    talk(Line, dialogue)


def test_who_half_closes_after_the_dot_hears_the_answer() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        line.door.road.slow = {"message"}
        await heard(line, MESSAGE + b".\r\n")
        line.protocol.eof_received()
        for _ in range(4):
            await asyncio.sleep(0)
        line.door.road.go_on.set()
        await line.said(QUEUED)
        await until(lambda: line.wire.closed)

    talk(Line, dialogue)


def test_each_message_has_its_own_limit() -> None:
    """One that is late is 451, and the time of the next one begins anew; the timer of all goes
    with the session."""

    async def dialogue(line: Line) -> None:
        for _ in range(2):
            await begun(line)
            line.door.road.slow = {"message"}
            await heard(line, MESSAGE + b".\r\n")
            await until(lambda: b"451 4.3.0 Internal error" in line.wire.said)
            line.door.road.slow = set()
            await begun(line)
            assert b"250 2.0.0 Ok: queued" in await heard(line, MESSAGE + b".\r\n")
            line.wire.said = b""
        assert len(octets(line)) == 2
        session = line.protocol._able
        assert session is not None
        line.protocol.connection_lost(None)
        await until(lambda: not line.door.open)
        alarm = session._processing._alarm
        assert alarm is not None
        await until(lambda: alarm._timer is None)

    talk(lambda: Line(replace(QUICK.deadlines, processing=0.05)), dialogue)


@pytest.mark.parametrize("after", [b"Subject: x\r\n", MESSAGE + b".\r\n"])
def test_a_client_that_goes_costs_nothing_but_its_mail(
    after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    discarded: list[bool] = []
    monkeypatch.setattr(DataReader, "discard", lambda _: discarded.append(True))
    close = Content.close
    monkeypatch.setattr(Content, "close", lambda self: (closed.append(True), close(self)))

    async def dialogue(line: Line) -> None:
        await begun(line)
        line.door.road.slow = {"message"}
        await heard(line, after)
        line.protocol.connection_lost(None)
        await until(line.protocol._handler_coroutine.done)
        assert line.protocol._incoming is None
        line.door.road.go_on.set()
        await until(lambda: not line.door.open)
        # What was handed over is finished, whoever is gone.
        whole = after.endswith(b".\r\n")
        assert octets(line) == [MESSAGE] * whole
        assert closed == [True] * whole
        assert discarded == [True] * (not whole)

    talk(Line, dialogue)


def test_commands_that_are_not_the_usual_ones_go_the_whole_way() -> None:
    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        assert (await heard(line, b"MAIL FROM:<>\n")).startswith(OK)
        assert (await heard(line, b"MAIL FROM:<a@b.example>\r\n")).startswith(b"503 ")
        assert (await heard(line, b"RCPT TO:<refused@d.example>\r\n")).startswith(b"550 ")
        assert (await heard(line, b"DATA\r\n")).startswith(b"554 5.5.1")
        assert (await heard(line, b"RCPT TO:<c@d.example>\r\nRCPT TO:<c2@d.example>\r\n")).count(
            OK
        ) == 2
        assert (await heard(line, b"DATAX\r\n")).startswith(b"500 5.5.1")
        assert (await heard(line, b"DATA now\r\n")).startswith(b"501 ")
        assert await heard(line, b"DATA\r\n") == GO
        await heard(line, b".\r\n")
        await line.said(QUEUED)
        assert octets(line) == [b""]

    talk(Line, dialogue)


def test_a_session_that_quits_ends_without_a_step_more() -> None:
    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        assert (await heard(line, b"QUIT now\r\n")).startswith(b"501 ")
        assert await heard(line, b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
        assert await heard(line, b"NOOP\r\n") == b"", "nothing is said after a goodbye"
        await until(lambda: line.wire.closed)
        assert line.wire.said.endswith(b"221 2.0.0 Bye\r\n")
        assert not line.door.open

    talk(Line, dialogue)


def test_a_session_is_closed_once_whatever_it_leaves() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        line.door.road.slow = {"message"}
        assert await heard(line, MESSAGE + b".\r\nQUIT\r\n") == b""
        line.protocol.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert line.door.open == 1, "a mail is being taken"
        line.door.road.go_on.set()
        await until(lambda: not line.door.open)
        assert octets(line) == [MESSAGE]
        assert line.door.calls.count("close") == 1

    talk(Line, dialogue)


def test_a_transaction_is_given_up_before_its_session_is_closed() -> None:
    async def dialogue(line: Line) -> None:
        await heard(line, b"HELO x\r\n")
        await heard(line, b"MAIL FROM:<a@b.example>\r\n")
        assert await heard(line, b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
        await until(lambda: not line.door.open)
        assert line.door.calls[-2:] == ["reset", "close"]

    talk(Line, dialogue)
