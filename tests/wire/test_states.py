"""Every row of the tables, on the side that sends and on the side that receives."""

from __future__ import annotations

import pytest

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.states import (
    AFTER_REPLY,
    COMMAND_OF,
    EDIT_ACTIONS,
    EVENTS,
    NEXT,
    REPLIES,
    TOLERATED,
    CommandType,
    ReplyType,
    State,
)
from tests.wire import helpers
from tests.wire.helpers import (
    EXAMPLES,
    WAY_TO,
    WAY_TO_COMMAND,
    hear,
    negotiated_milter,
    negotiated_mta,
    walk,
)

COMMANDS = [each for each in EXAMPLES if each is not m.Negotiate]
MOVES = [(state, kind) for state in WAY_TO for kind in COMMANDS]
ANSWERS = [(command, reply) for command in EVENTS for reply in helpers.REPLIES]


def _label(value: object) -> str:
    return value.name if isinstance(value, State) else getattr(value, "__name__", "")


@pytest.mark.parametrize(("state", "kind"), MOVES, ids=_label)
def test_mta_moves(state: State, kind: CommandType) -> None:
    mta = walk(negotiated_mta(), WAY_TO[state])
    assert mta.state is state
    after = NEXT[state].get(kind)
    if after is None:
        with pytest.raises(LocalError):
            mta.send(EXAMPLES[kind])
        with pytest.raises(LocalError, match="unusable"):
            mta.send(EXAMPLES[m.Quit])
        return
    assert mta.send(EXAMPLES[kind]) == EXAMPLES[kind].encode()
    assert mta.state is after
    assert bool(mta.awaiting) == (kind in EVENTS)


@pytest.mark.parametrize(("state", "kind"), MOVES, ids=_label)
def test_milter_moves(state: State, kind: CommandType) -> None:
    milter = hear(negotiated_milter(), WAY_TO[state])
    assert milter.state is state
    after = NEXT[state].get(kind)
    if state is State.CLOSED:
        assert milter.receive(EXAMPLES[kind].encode()) == []
        return
    if after is None:
        with pytest.raises(PeerError):
            milter.receive(EXAMPLES[kind].encode())
        with pytest.raises(LocalError, match="unusable"):
            milter.receive(b"")
        return
    assert milter.receive(EXAMPLES[kind].encode()) == [EXAMPLES[kind]]
    assert milter.state is after
    assert milter.reply_due == (kind in EVENTS)


def _expected(command: CommandType, reply: ReplyType, before: State) -> State:
    return AFTER_REPLY[command].get(reply, before)


@pytest.mark.parametrize(("command", "reply"), ANSWERS, ids=_label)
def test_mta_takes_answers(command: CommandType, reply: ReplyType) -> None:
    mta = walk(negotiated_mta(), WAY_TO_COMMAND[command])
    mta.send(EXAMPLES[command])
    before, example = mta.state, helpers.REPLIES[reply]
    if reply not in REPLIES[command] | TOLERATED[command]:
        with pytest.raises(PeerError):
            mta.receive(example.encode())
        return
    assert mta.receive(example.encode()) == [example]
    assert bool(mta.violations) == (reply in TOLERATED[command])
    if reply in EDIT_ACTIONS or reply is m.Progress:
        assert (mta.awaiting, mta.state) == (1, before)
    else:
        assert (mta.awaiting, mta.state) == (0, _expected(command, reply, before))
        with pytest.raises(PeerError):
            mta.receive(m.Continue().encode())


@pytest.mark.parametrize(("command", "reply"), ANSWERS, ids=_label)
def test_milter_gives_answers(command: CommandType, reply: ReplyType) -> None:
    milter = hear(negotiated_milter(), WAY_TO_COMMAND[command])
    milter.receive(EXAMPLES[command].encode())
    before, example = milter.state, helpers.REPLIES[reply]
    if reply not in REPLIES[command]:
        with pytest.raises(LocalError):
            milter.reply(example)
        return
    assert milter.reply(example) == example.encode()
    if reply in EDIT_ACTIONS or reply is m.Progress:
        assert milter.reply_due
    else:
        assert not milter.reply_due
        assert milter.state is _expected(command, reply, before)


@pytest.mark.parametrize("kind", [each for each, event in EVENTS.items() if event.unsent])
def test_unsent_events(kind: CommandType) -> None:
    """A milter that does not want an event never hears of it, nor of its macros."""
    protocol = EVENTS[kind].unsent
    mta = walk(negotiated_mta(protocol=protocol), WAY_TO_COMMAND[kind])
    after = NEXT[mta.state][kind]
    assert mta.send(EXAMPLES[kind], [(b"i", b"1")]) == b""
    assert mta.awaiting == 0
    assert mta.state is after
    if kind in (m.Unknown, m.Helo):
        return
    # What may follow it may now follow what goes before it.
    for following in NEXT[after]:
        milter = hear(negotiated_milter(protocol=protocol), WAY_TO_COMMAND[kind])
        assert milter.receive(EXAMPLES[following].encode()) == [EXAMPLES[following]]


@pytest.mark.parametrize("kind", [each for each, event in EVENTS.items() if event.unanswered])
def test_unanswered_events(kind: CommandType) -> None:
    protocol = EVENTS[kind].unanswered
    mta = walk(negotiated_mta(protocol=protocol), WAY_TO_COMMAND[kind])
    assert mta.send(EXAMPLES[kind])
    assert mta.awaiting == 0
    with pytest.raises(PeerError):
        mta.receive(m.Continue().encode())
    milter = hear(negotiated_milter(protocol=protocol), WAY_TO_COMMAND[kind])
    milter.receive(EXAMPLES[kind].encode())
    assert not milter.reply_due
    with pytest.raises(LocalError):
        milter.reply(m.Continue())


@pytest.mark.parametrize("reply", EDIT_ACTIONS, ids=_label)
def test_each_edit_needs_its_action(reply: ReplyType) -> None:
    """An MTA takes an edit that was not agreed on, and notes it; a milter may not send it."""
    without = Actions.ALL & ~EDIT_ACTIONS[reply]
    way = [*WAY_TO_COMMAND[m.EndOfMessage], EXAMPLES[m.EndOfMessage]]
    mta = walk(negotiated_mta(without), way[:-1])
    mta.send(way[-1])
    assert mta.receive(helpers.REPLIES[reply].encode()) == [helpers.REPLIES[reply]]
    assert mta.violations == (f"{reply.__name__} without having negotiated it",)
    milter = hear(negotiated_milter(without), way[:-1])
    milter.receive(way[-1].encode())
    with pytest.raises(LocalError):
        milter.reply(helpers.REPLIES[reply])


@pytest.mark.parametrize(
    ("version", "kind", "sent"),
    [
        (2, m.Data, False),
        (3, m.Data, False),
        (4, m.Data, True),
        (2, m.Unknown, False),
        (3, m.Unknown, True),
    ],
)
def test_events_came_with_versions(version: int, kind: CommandType, sent: bool) -> None:
    mta = walk(negotiated_mta(Actions.NONE, Protocol.NONE, version), WAY_TO_COMMAND[kind])
    assert bool(mta.send(EXAMPLES[kind])) is sent


@pytest.mark.parametrize(
    ("command", "reply", "after"),
    [
        (m.Connect, m.Reject, State.IDLE),
        (m.Helo, m.Accept, State.IDLE),
        (m.Unknown, m.Reject, State.IDLE),
        (m.MailFrom, m.Continue, State.MAIL),
        (m.MailFrom, m.Reject, State.IDLE),
        (m.MailFrom, m.Accept, State.IDLE),
        (m.RcptTo, m.Reject, State.RCPT),
        (m.RcptTo, m.TempFail, State.RCPT),
        (m.RcptTo, m.ReplyCode, State.RCPT),
        (m.RcptTo, m.Accept, State.IDLE),
        (m.RcptTo, m.Discard, State.IDLE),
        (m.Data, m.ReplyCode, State.IDLE),
        (m.Header, m.Skip, State.HEADER),
        (m.Header, m.Discard, State.IDLE),
        (m.BodyChunk, m.Skip, State.BODY),
        (m.BodyChunk, m.Accept, State.IDLE),
        (m.EndOfMessage, m.Continue, State.IDLE),
        (m.EndOfMessage, m.Progress, State.END_OF_MESSAGE),
        (m.EndOfMessage, m.QuarantineReply, State.END_OF_MESSAGE),
        (m.Connect, m.Shutdown, State.CLOSING),
        (m.EndOfMessage, m.ConnFail, State.CLOSING),
    ],
    ids=_label,
)
def test_where_an_answer_leads(command: CommandType, reply: ReplyType, after: State) -> None:
    """Written out by hand, from Postfix and libmilter, not from the table."""
    mta = walk(negotiated_mta(), WAY_TO_COMMAND[command])
    milter = hear(negotiated_milter(), WAY_TO_COMMAND[command])
    milter.receive(mta.send(EXAMPLES[command]))
    mta.receive(milter.reply(helpers.REPLIES[reply]))
    assert mta.state is milter.state is after


def test_tables_know_every_message() -> None:
    assert set(COMMAND_OF) == {*EXAMPLES, m.Macros}
    assert set(NEXT) == set(State)
    assert set(REPLIES) == set(TOLERATED) == set(AFTER_REPLY) == set(EVENTS)
    assert all(not REPLIES[each] & TOLERATED[each] for each in REPLIES)
