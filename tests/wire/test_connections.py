"""Two ends tied back to back: the same events, however the octets are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.frames import frame
from milterd.wire.limits import Limits
from milterd.wire.milter import Event, Fields, MilterConnection
from milterd.wire.mta import MtaConnection
from milterd.wire.states import COMMAND_OF, EVENTS, State
from tests.wire.helpers import Tied, hear, negotiated_milter, negotiated_mta, walk, whole
from tests.wire.strategies import (
    edits,
    fragments,
    macro_values,
    protocols,
    sessions,
    verdicts,
)


@given(st.data(), st.integers(2, 6), protocols, sessions())
@settings(max_examples=60)
def test_any_session_in_any_pieces(
    data: st.DataObject, version: int, protocol: Protocol, said: list[m.CommandMessage]
) -> None:
    """The milter hears, in order, exactly what it wants to hear, macros before it."""
    milter = MilterConnection(accept_actions=Actions.ALL, accept_protocol=protocol)
    tied = Tied(MtaConnection(version=version), milter, lambda octets: data.draw(fragments(octets)))
    expected: list[m.CommandMessage] = []
    for command in said:
        macros = data.draw(macro_values)
        event = EVENTS.get(type(command))
        tied.say(command, macros=macros)
        if event and (tied.mta.agreed_protocol & event.unsent or event.since > version):
            continue
        if macros:
            expected.append(m.Macros(COMMAND_OF[type(command)], macros))
        expected.append(command)
    assert tied.heard == expected
    assert tied.mta.state is tied.milter.state is State.CLOSED
    assert tied.mta.violations == ()


@given(st.data(), st.lists(edits, max_size=4), verdicts)
@settings(max_examples=60)
def test_any_edits_in_any_pieces(
    data: st.DataObject, asked: Sequence[m.EditReply], verdict: m.Reply
) -> None:
    tied = _up_to_body(lambda octets: data.draw(fragments(octets)))
    answer = [*asked, verdict]
    if data.draw(st.booleans()):
        answer.insert(0, m.Progress())
    assert tied.say(m.EndOfMessage(), answer) == answer
    assert tied.mta.awaiting == 0
    assert tied.mta.state is tied.milter.state is State.IDLE


def test_octets_of_an_edit_that_look_like_a_verdict_are_none() -> None:
    tied = _up_to_body()
    octets = m.Continue().encode()
    tied.mta.send(m.EndOfMessage())
    edit = m.ReplaceBodyChunk(b"x" + octets)
    sent = edit.encode()
    assert tied.mta.receive(sent[: -len(octets)]) == []
    assert tied.mta.receive(octets) == [edit]
    assert tied.mta.awaiting == 1
    assert tied.mta.receive(octets) == [m.Continue()]
    assert tied.mta.awaiting == 0
    assert tied.mta.taken >= len(sent) + len(octets)


def _up_to_body(cut: object = whole) -> Tied:
    milter = MilterConnection(accept_actions=Actions.ALL, accept_protocol=Protocol.SKIP)
    tied = Tied(MtaConnection(), milter, cut)  # type: ignore[arg-type]
    said: list[m.CommandMessage] = [
        m.Connect(b"x"),
        m.Helo(b"x"),
        m.MailFrom(b"<>"),
        m.RcptTo(b"<a@b>"),
        m.Data(),
        m.Header(b"A", b"b"),
        m.EndOfHeaders(),
    ]
    for each in said:
        tied.say(each)
    return tied


@given(st.data(), st.lists(st.tuples(verdicts, st.booleans()), min_size=1, max_size=5))
@settings(max_examples=60)
def test_both_sides_know_where_a_verdict_leads(
    data: st.DataObject, answers: list[tuple[m.Reply, bool]]
) -> None:
    """After any legal answers the next transaction is legal for both."""
    tied = Tied(MtaConnection(), MilterConnection())
    session = frozenset({m.Connect, m.Helo})
    said: list[m.CommandMessage] = [m.Connect(b"x"), m.Helo(b"x"), m.MailFrom(b"<>")]
    said += [m.RcptTo(b"<a@b>"), m.Data()]
    for command, (answer, again) in zip(said, answers, strict=False):
        allowed = type(command) not in session or not isinstance(answer, m.Discard)
        tied.say(command, [answer if allowed else m.Continue()])
        assert tied.mta.state is tied.milter.state
        if again and tied.mta.state is not State.READY:
            tied.say(m.Abort())
        if tied.mta.state is State.IDLE and not isinstance(command, m.Connect):
            break
    if tied.mta.state is not State.IDLE:
        tied.say(m.Abort())
    assert tied.say(m.MailFrom(b"<next@example.org>")) == [m.Continue()]


def test_skip_lasts_until_another_kind_of_event() -> None:
    tied = _up_to_body()
    assert tied.say(m.BodyChunk(b"1"), [m.Skip()]) == [m.Skip()]
    assert tied.mta.skipping(m.BodyChunk)
    assert tied.mta.send(m.BodyChunk(b"2"), [(b"i", b"1")]) == b""
    assert not tied.mta.awaiting
    assert tied.say(m.EndOfMessage()) == [m.Continue()]
    assert not tied.mta.skipping(m.BodyChunk)
    assert m.BodyChunk(b"2") not in tied.heard


def test_skip_of_headers_ends_with_the_header() -> None:
    mta = walk(negotiated_mta(), [m.Connect(b"x"), m.MailFrom(b"<>"), m.RcptTo(b"<a@b>"), m.Data()])
    mta.send(m.Header(b"A", b"1"))
    mta.receive(m.Skip().encode())
    assert mta.send(m.Header(b"B", b"2")) == b""
    assert mta.send(m.EndOfHeaders()) == m.EndOfHeaders().encode()


def test_skip_ends_with_an_abort() -> None:
    tied = _up_to_body()
    tied.say(m.BodyChunk(b"1"), [m.Skip()])
    tied.say(m.Abort())
    assert not tied.mta.skipping(m.BodyChunk)


def test_one_answer_is_due_at_a_time() -> None:
    mta = negotiated_mta()
    mta.send(m.Connect(b"x"))
    assert mta.awaiting == 1
    with pytest.raises(LocalError):
        mta.send(m.Helo(b"x"))


def test_quit_may_come_before_the_answer() -> None:
    mta = negotiated_mta()
    mta.send(m.Connect(b"x"))
    assert mta.send(m.Quit()) == m.Quit().encode()
    assert mta.awaiting == 0
    assert mta.receive(m.Continue().encode()) == []


def test_events_wait_for_the_answer_before_them() -> None:
    """An MTA that does not wait gets its answers in order, as libmilter gives them."""
    milter = hear(negotiated_milter(), [m.Connect(b"x")])
    said: list[m.CommandMessage] = [m.Helo(b"x"), m.MailFrom(b"<>"), m.RcptTo(b"<a@b>")]
    said += [m.Abort(), m.Quit()]
    heard = milter.receive(b"".join(each.encode() for each in said))
    assert heard == said[:1]
    assert milter.receive() == []
    for expected in (said[1:2], said[2:3], said[3:]):
        milter.reply(m.Continue())
        assert milter.receive() == expected
    assert milter.state is State.CLOSED


def test_an_mta_that_never_waits_is_dropped() -> None:
    milter = negotiated_milter(limits=Limits(backlog=1000))
    flood = m.Connect(b"x").encode() + m.Unknown(b"y" * 100).encode() * 20
    with pytest.raises(PeerError):
        milter.receive(flood)


def test_events_nobody_answers_come_at_once() -> None:
    protocol = Protocol.NR_HDR | Protocol.NR_BODY | Protocol.NR_EOH
    milter = hear(
        negotiated_milter(protocol=protocol),
        [m.Connect(b"x"), m.MailFrom(b"<>"), m.RcptTo(b"<a@b>"), m.Data()],
    )
    said: list[m.CommandMessage] = [
        m.Header(b"A", b"1"),
        m.Header(b"B", b"2"),
        m.EndOfHeaders(),
        m.BodyChunk(b"x"),
        m.EndOfMessage(b"y"),
    ]
    assert milter.receive(b"".join(each.encode() for each in said)) == said
    assert milter.reply_due


@given(st.data(), protocols, sessions())
@settings(max_examples=60)
def test_fields_in_a_row_are_one_event_and_all_else_is_as_ever(
    data: st.DataObject, protocol: Protocol, said: list[m.CommandMessage]
) -> None:
    one, other = (MilterConnection(accept_protocol=protocol) for _ in "12")
    offer = MtaConnection().negotiate()
    assert one.receive(offer) == other.receive_runs(offer)
    assert one.negotiate() == other.negotiate()
    alone: list[Event] = []
    runs: list[Event] = []
    stream = b""
    for each in said:
        if data.draw(st.booleans()):
            stream += m.Macros(COMMAND_OF[type(each)], ((b"i", b"1"),)).encode()
        stream += each.encode()
    for piece in data.draw(fragments(stream)):
        _all_of(one, one.receive, piece, alone)
        _all_of(other, other.receive_runs, piece, runs)
    assert _apart(runs) == _apart(alone)
    assert all(type(each) is not m.Header for each in runs)
    assert one.state is other.state


def _all_of(
    milter: MilterConnection,
    receive: Callable[[bytes], Sequence[Event]],
    piece: bytes,
    heard: list[Event],
) -> None:
    while events := receive(piece):
        piece = b""
        heard += events
        if milter.reply_due:
            milter.reply(m.Continue())


def _apart(events: list[Event]) -> list[Event]:
    """Each field for itself, without the macros of fields."""
    found: list[Event] = []
    for each in events:
        if isinstance(each, Fields):
            found += [m.Header(*pair) for pair in each.pairs]
        elif not isinstance(each, m.Macros) or each.command is not Command.HEADER:
            found.append(each)
    return found


def test_macros_between_fields_part_no_run() -> None:
    protocol = Protocol.NR_HDR | Protocol.NR_EOH
    said = [m.Connect(b"x"), m.MailFrom(b"<>"), m.RcptTo(b"<a@b>"), m.Data()]
    milter = hear(negotiated_milter(protocol=protocol), said)
    macros = m.Macros(Command.HEADER, ((b"i", b"1"),))
    fields = [m.Header(b"A", b"1"), m.Header(b"B", b"2"), m.Header(b"C", b"")]
    octets = b"".join(macros.encode() + each.encode() for each in fields)
    found = milter.receive_runs(octets + m.EndOfHeaders().encode())
    pairs = [(b"A", b"1"), (b"B", b"2"), (b"C", b"")]
    assert found == [macros, Fields(pairs), m.EndOfHeaders()]


@pytest.mark.parametrize("payload", [b"", b"A", b"A\0", b"A\0b", b"A\0b\0c\0", b"A\0b\0c"])
def test_a_field_out_of_form_is_refused_in_a_run_too(payload: bytes) -> None:
    said = [m.Connect(b"x"), m.MailFrom(b"<>"), m.RcptTo(b"<a@b>"), m.Data()]
    milter = hear(negotiated_milter(protocol=Protocol.NR_HDR), said)
    with pytest.raises(PeerError):
        milter.receive_runs(m.Header(b"A", b"1").encode() + frame(b"L", payload))


def test_milter_closing_is_an_error_only_when_it_owes_something() -> None:
    mta = negotiated_mta()
    mta.eof()
    assert mta.state is State.CLOSED
    mta = negotiated_mta()
    mta.receive(b"\0\0")
    with pytest.raises(PeerError):
        mta.eof()
    mta = negotiated_mta()
    mta.send(m.Connect(b"x"))
    with pytest.raises(PeerError):
        mta.eof()
    with pytest.raises(LocalError):
        mta.eof()


def test_mta_closing_without_quit_is_no_error() -> None:
    milter = hear(negotiated_milter(), [m.Connect(b"x")])
    milter.eof()
    assert milter.state is State.CLOSED
    milter = negotiated_milter()
    milter.receive(m.Connect(b"x").encode())
    milter.eof()
    assert not milter.reply_due
    milter = negotiated_milter()
    milter.receive(b"\0\0\0\x05C")
    with pytest.raises(PeerError):
        milter.eof()


def test_an_answer_is_the_last_thing_in_a_reply() -> None:
    milter = hear(negotiated_milter(), [m.Connect(b"x"), m.MailFrom(b"<>")])
    milter.receive(m.RcptTo(b"<a@b>").encode())
    with pytest.raises(LocalError):
        milter.reply(m.Continue(), m.Continue())


def test_after_an_error_nothing_works() -> None:
    mta = negotiated_mta()
    with pytest.raises(PeerError):
        mta.receive(b"\0\0\0\x01c")
    for call in (
        mta.negotiate,
        mta.eof,
        lambda: mta.receive(b""),
        lambda: mta.send(m.Quit()),
    ):
        with pytest.raises(LocalError, match="nobody asked for"):
            call()
    milter = negotiated_milter()
    with pytest.raises(PeerError):
        milter.receive(b"\0\0\0\0")
    for act in (
        milter.negotiate,
        milter.eof,
        milter.receive,
        lambda: milter.reply(m.Continue()),
    ):
        with pytest.raises(LocalError, match="unusable"):
            act()


def test_macros_go_before_their_command() -> None:
    mta = negotiated_mta()
    with pytest.raises(LocalError):
        mta.send(m.Macros(COMMAND_OF[m.Helo]))
    mta = negotiated_mta()
    assert mta.send(m.Connect(b"x"), [(b"j", b"mx")]) == b"\0\0\0\x07DCj\0mx\0\0\0\0\x04Cx\0U"
