"""A filter that waits without a thread: the connection goes on as with any other."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from milterd.base import logs
from milterd.core.actions import AddHeader, ChangeHeader
from milterd.core.decision import Decision, Reply, Verdict
from milterd.core.filter import Need
from milterd.core.mail import Family, Mail
from milterd.host.connection import Connection
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.wire import messages as m
from milterd.wire.mta import MtaConnection


def in_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """A test that runs in an event loop."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


BAD = Decision(Verdict.REJECT, reply=Reply(550, "5.7.1", "no"))


class Counting:
    """Counts decisions and failures."""

    def __init__(self) -> None:
        self.decisions: list[str] = []

    def decided(self, outcome: str, _seconds: float) -> None:
        self.decisions.append(outcome)

    def failed(self, kind: str) -> None:
        self.decisions.append(f"{kind} failed")


class Begun:
    """Tells what it is told to, when it is told to."""

    name, needs = "begun", Need.HEADERS

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault, self.called_off = fault, 0
        self.then: Callable[[Any], None] | None = None

    def gather(self, _: Mail) -> str:
        raise AssertionError

    def begin(self, _: Mail, then: Callable[[Any], None]) -> Callable[[], None]:
        if self.fault is not None:
            raise self.fault
        self.then = then
        return self.call_off

    def call_off(self) -> None:
        self.called_off += 1

    def decide(self, _: Mail, facts: str) -> Decision:
        if facts == "fault":
            raise ValueError(facts)
        return BAD if facts == "bad" else Decision()


class Wired(asyncio.Transport):
    """What a connection writes, and whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.octets, self.reading, self.closed = b"", True, False
        self.wrote = asyncio.Event()

    def write(self, data: Any) -> None:
        self.octets += bytes(data)
        self.wrote.set()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0


class Talk:
    """One connection with a mail that its filter has begun to look at."""

    def __init__(self, filter_: Begun, options: Options | None = None) -> None:
        self.filter, self.meter = filter_, Counting()
        around = Surroundings(logs.get("filter"), lambda: "trace", self.meter)
        judge = Judge(filter_, options or Options(), around)
        self.pool = ThreadPoolExecutor(1)
        self.connection = Connection(judge, around, self.pool, lambda: None)
        self.transport, self.wire = Wired(), MtaConnection()
        self.connection.connection_made(self.transport)
        self.connection.data_received(self.wire.negotiate())
        self.replies()
        self.transport.wrote.clear()
        client = m.Connect(b"localhost", Family.INET, 25, b"127.0.0.1")
        self.connection.data_received(self.wire.send(client) + self.mail())

    def mail(self) -> bytes:
        events = (
            m.MailFrom(b"<a@example.net>"),
            m.RcptTo(b"<b@example.org>"),
            m.Data(),
            m.Header(b"From", b" a"),
            m.EndOfHeaders(),
            m.EndOfMessage(),
        )
        return b"".join([self.wire.send(each) for each in events])

    def replies(self) -> list[Any]:
        octets, self.transport.octets = self.transport.octets, b""
        return list(self.wire.receive(octets))

    def come(self, facts: Any) -> None:
        assert self.filter.then is not None
        self.filter.then(facts)


@in_loop
async def test_its_facts_are_answered_at_once_and_the_next_mail_is_taken() -> None:
    talk = Talk(Begun())
    assert talk.connection.busy
    assert talk.replies() == []
    talk.come("good")
    assert talk.replies() == [m.Continue()]
    assert talk.meter.decisions == ["continue"]
    talk.connection.data_received(talk.wire.send(m.Abort()) + talk.mail())
    talk.come("bad")
    assert isinstance(talk.replies()[0], m.ReplyCode)


class Marking(Begun):
    """Has few decisions, which it makes again and again."""

    needs = Need.HEADERS | Need.ADD_HEADERS
    made: Mapping[str, Decision] = {
        "mark": Decision(edits=(AddHeader(b"X-Mark", b" 1"),)),
        "other": Decision(edits=(AddHeader(b"X-Mark", b" 2"),)),
        "long": Decision(edits=(AddHeader(b"X-Long", b" " + b"x" * 500),)),
        "unsayable": Decision(edits=(ChangeHeader(b"From", 1, b""),)),
        "bad": BAD,
    }

    def decide(self, _: Mail, facts: str) -> Decision:
        return self.made[facts]


@pytest.mark.parametrize("shadow", [False, True])
@in_loop
async def test_a_decision_that_comes_again_is_answered_as_it_was(shadow: bool) -> None:
    talk = Talk(Marking(), Options(shadow=shadow))
    first: dict[str, list[Any]] = {}
    order = "mark mark other mark bad mark long long unsayable mark unsayable bad other other"
    for word in order.split():
        talk.come(word)
        replies = talk.replies()
        assert replies == first.setdefault(word, replies)
        talk.connection.data_received(talk.wire.send(m.Abort()) + talk.mail())
    if shadow:
        assert all(each == [m.Continue()] for each in first.values())
    else:
        assert first["mark"] == [m.AddHeaderReply(b"X-Mark", b" 1"), m.Continue()]
        assert first["other"] == [m.AddHeaderReply(b"X-Mark", b" 2"), m.Continue()]
        assert first["unsayable"][0].text.startswith(b"451 4.3.0 ")
    counted = {"bad": "reject", "unsayable": "tempfail"}
    said = [each for each in talk.meter.decisions if not each.endswith("failed")]
    assert said == [counted.get(word, "edit") for word in order.split()]


@in_loop
async def test_work_for_a_thread_is_done_there() -> None:
    talk = Talk(Begun())
    talk.come(lambda: "bad")
    await asyncio.wait_for(talk.transport.wrote.wait(), 10)
    assert isinstance(talk.replies()[0], m.ReplyCode)


@pytest.mark.parametrize("facts", ["fault", lambda: "fault"])
@in_loop
async def test_a_fault_is_answered_with_451(facts: Any) -> None:
    talk = Talk(Begun())
    talk.come(facts)
    await asyncio.wait_for(talk.transport.wrote.wait(), 10)
    (reply,) = talk.replies()
    assert reply.text.startswith(b"451 4.3.0 ")
    assert talk.meter.decisions == ["filter failed", "tempfail"]


@in_loop
async def test_a_fault_in_beginning_is_answered_with_451() -> None:
    talk = Talk(Begun(ValueError("x")))
    await asyncio.wait_for(talk.transport.wrote.wait(), 10)
    assert talk.replies()[0].text.startswith(b"451 4.3.0 ")


@in_loop
async def test_what_comes_before_the_answer_waits_for_it() -> None:
    talk = Talk(Begun())
    talk.connection.data_received(m.Abort().encode())
    assert not talk.transport.reading
    talk.come("good")
    assert talk.transport.reading
    assert talk.replies() == [m.Continue()]
    assert not talk.connection.busy


@in_loop
async def test_who_has_said_all_hears_the_answer() -> None:
    talk = Talk(Begun())
    assert talk.connection.eof_received()
    talk.come("good")
    assert talk.replies() == [m.Continue()]
    assert talk.transport.closed


@in_loop
async def test_a_decision_is_counted_although_the_mta_has_gone() -> None:
    talk = Talk(Begun())
    talk.connection.connection_lost(None)
    talk.come("good")
    assert talk.meter.decisions == ["continue"]
    assert not talk.connection.busy


@in_loop
async def test_who_is_cut_calls_it_off() -> None:
    talk = Talk(Begun())
    talk.connection.abort()
    assert talk.filter.called_off == 1
