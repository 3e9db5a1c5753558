"""The legal moves, as data: what may follow what, and what may answer what.

One table serves both roles.  It is libmilter's (engine.c), with these
differences: an ABORT or the end of the session may come at any time, HELO again
after any transaction, and DATA may be left out by an MTA that has none.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol

CommandType = type[m.CommandMessage]
ReplyType = type[m.Reply]
Moves = Mapping["State", Mapping[CommandType, "State"]]


class State(enum.Enum):
    """Where a connection is; named after the last event."""

    START = "nothing yet"
    NEGOTIATING = "offer made, no answer yet"
    READY = "negotiated, no client"
    IDLE = "client there, no transaction"
    MAIL = "after MAIL"
    RCPT = "after RCPT"
    DATA = "after DATA"
    HEADER = "among header fields"
    END_OF_HEADERS = "after the header"
    BODY = "in the body"
    END_OF_MESSAGE = "at end of message"
    CLOSING = "told to hang up"
    CLOSED = "over"

    # States are looked up for every event; Enum's own hash is slow Python code.
    __hash__ = object.__hash__


_AFTER_CLIENT: Mapping[CommandType, State] = {
    m.Abort: State.IDLE,
    m.Quit: State.CLOSED,
    m.QuitNewConnection: State.READY,
}

NEXT: Moves = {
    State.START: {m.Negotiate: State.NEGOTIATING, m.Quit: State.CLOSED},
    State.NEGOTIATING: {m.Quit: State.CLOSED},
    State.READY: {
        m.Connect: State.IDLE,
        m.Abort: State.READY,
        m.Quit: State.CLOSED,
        m.QuitNewConnection: State.READY,
    },
    State.IDLE: {
        m.Helo: State.IDLE,
        m.MailFrom: State.MAIL,
        m.Unknown: State.IDLE,
        **_AFTER_CLIENT,
    },
    State.MAIL: {m.RcptTo: State.RCPT, m.Unknown: State.MAIL, **_AFTER_CLIENT},
    State.RCPT: {
        m.RcptTo: State.RCPT,
        m.Unknown: State.RCPT,
        m.Data: State.DATA,
        m.Header: State.HEADER,
        m.EndOfHeaders: State.END_OF_HEADERS,
        m.BodyChunk: State.BODY,
        m.EndOfMessage: State.END_OF_MESSAGE,
        **_AFTER_CLIENT,
    },
    State.DATA: {
        m.Header: State.HEADER,
        m.EndOfHeaders: State.END_OF_HEADERS,
        **_AFTER_CLIENT,
    },
    State.HEADER: {
        m.Header: State.HEADER,
        m.EndOfHeaders: State.END_OF_HEADERS,
        **_AFTER_CLIENT,
    },
    State.END_OF_HEADERS: {
        m.BodyChunk: State.BODY,
        m.EndOfMessage: State.END_OF_MESSAGE,
        **_AFTER_CLIENT,
    },
    State.BODY: {
        m.BodyChunk: State.BODY,
        m.EndOfMessage: State.END_OF_MESSAGE,
        **_AFTER_CLIENT,
    },
    State.END_OF_MESSAGE: {**_AFTER_CLIENT},
    State.CLOSING: {m.Abort: State.CLOSING, m.Quit: State.CLOSED},
    State.CLOSED: {},
}
"""The state each command leads to; what is not here is not legal."""


@dataclass(frozen=True, slots=True)
class Event:
    """How a command is negotiated: the flag against it, the flag against its
    answer, and the version it came with."""

    unsent: Protocol
    unanswered: Protocol
    since: int = 2


EVENTS: Mapping[CommandType, Event] = {
    m.Connect: Event(Protocol.NOCONNECT, Protocol.NR_CONN),
    m.Helo: Event(Protocol.NOHELO, Protocol.NR_HELO),
    m.MailFrom: Event(Protocol.NOMAIL, Protocol.NR_MAIL),
    m.RcptTo: Event(Protocol.NORCPT, Protocol.NR_RCPT),
    m.Data: Event(Protocol.NODATA, Protocol.NR_DATA, since=4),
    m.Header: Event(Protocol.NOHDRS, Protocol.NR_HDR),
    m.EndOfHeaders: Event(Protocol.NOEOH, Protocol.NR_EOH),
    m.BodyChunk: Event(Protocol.NOBODY, Protocol.NR_BODY),
    m.EndOfMessage: Event(Protocol.NONE, Protocol.NONE),
    m.Unknown: Event(Protocol.NOUNKNOWN, Protocol.NR_UNKN, since=3),
}
"""The commands that are answered.  ABORT, QUIT, QUIT_NC and macros never are."""

BEFORE_END = frozenset(EVENTS) - {m.EndOfMessage}
"""The events whose answers a milter can do without."""

WITH_BODY = (m.BodyChunk, m.EndOfMessage)
"""The commands that carry body octets."""

COMMAND_OF: Mapping[CommandType, Command] = {
    m.Negotiate: Command.NEGOTIATE,
    m.Connect: Command.CONNECT,
    m.Helo: Command.HELO,
    m.MailFrom: Command.MAIL,
    m.RcptTo: Command.RCPT,
    m.Data: Command.DATA,
    m.Header: Command.HEADER,
    m.EndOfHeaders: Command.END_OF_HEADERS,
    m.BodyChunk: Command.BODY,
    m.EndOfMessage: Command.END_OF_MESSAGE,
    m.Unknown: Command.UNKNOWN,
    m.Abort: Command.ABORT,
    m.Quit: Command.QUIT,
    m.QuitNewConnection: Command.QUIT_NEW_CONNECTION,
    m.Macros: Command.MACRO,
}

EDIT_ACTIONS: Mapping[ReplyType, Actions] = {
    m.AddHeaderReply: Actions.ADDHDRS,
    m.InsertHeaderReply: Actions.ADDHDRS,
    m.ChangeHeaderReply: Actions.CHGHDRS,
    m.ReplaceBodyChunk: Actions.CHGBODY,
    m.AddRcptReply: Actions.ADDRCPT,
    m.AddRcptParReply: Actions.ADDRCPT_PAR,
    m.DelRcptReply: Actions.DELRCPT,
    m.ChangeFromReply: Actions.CHGFROM,
    m.QuarantineReply: Actions.QUARANTINE,
}
"""The edits, and the action each must have been negotiated as."""

_CLOSING: frozenset[ReplyType] = frozenset({m.Shutdown, m.ConnFail})
_REFUSALS: frozenset[ReplyType] = frozenset({m.Reject, m.TempFail, m.ReplyCode})
_SESSION: frozenset[ReplyType] = frozenset({m.Continue, m.Accept, *_REFUSALS, *_CLOSING})
_MESSAGE: frozenset[ReplyType] = _SESSION | {m.Discard}
_EARLY: frozenset[ReplyType] = frozenset({m.Progress, m.QuarantineReply})

REPLIES: Mapping[CommandType, frozenset[ReplyType]] = {
    m.Connect: _SESSION,
    m.Helo: _SESSION,
    m.Unknown: _SESSION,
    m.MailFrom: _MESSAGE,
    m.RcptTo: _MESSAGE,
    m.Data: _MESSAGE,
    m.Header: _MESSAGE | {m.Skip},
    m.EndOfHeaders: _MESSAGE,
    m.BodyChunk: _MESSAGE | {m.Skip},
    m.EndOfMessage: _MESSAGE | frozenset(EDIT_ACTIONS) | {m.Progress},
}
"""What a milter may answer to each command."""

TOLERATED: Mapping[CommandType, frozenset[ReplyType]] = {
    m.Connect: frozenset({m.Discard, m.Progress}),
    m.Helo: frozenset({m.Discard, m.Progress}),
    m.Unknown: frozenset({m.Discard, m.Progress}),
    m.MailFrom: _EARLY,
    m.RcptTo: _EARLY,
    m.Data: _EARLY,
    m.Header: _EARLY,
    m.EndOfHeaders: _EARLY,
    m.BodyChunk: _EARLY,
    m.EndOfMessage: frozenset(),
}
"""What an MTA takes besides, as Postfix does, and notes as a violation."""

_VERDICTS: frozenset[ReplyType] = _REFUSALS | {m.Accept, m.Discard}

AFTER_REPLY: Mapping[CommandType, Mapping[ReplyType, State]] = {
    command: {
        **dict.fromkeys(_CLOSING, State.CLOSING),
        **dict.fromkeys(settling, State.IDLE),
    }
    for command, settling in {
        m.Connect: frozenset[ReplyType](),
        m.Helo: frozenset[ReplyType](),
        m.Unknown: frozenset[ReplyType](),
        m.MailFrom: _VERDICTS,
        # A refusal at RCPT concerns that recipient alone.
        m.RcptTo: frozenset[ReplyType]({m.Accept, m.Discard}),
        m.Data: _VERDICTS,
        m.Header: _VERDICTS,
        m.EndOfHeaders: _VERDICTS,
        m.BodyChunk: _VERDICTS,
        m.EndOfMessage: _VERDICTS | {m.Continue},
    }.items()
}
"""Where an answer leads, where it leads elsewhere than its command did."""


@functools.lru_cache(maxsize=1024)
def unsent_commands(protocol: Protocol, version: int) -> frozenset[CommandType]:
    """The commands that are never sent under these flags in this version."""
    return frozenset(
        kind for kind, event in EVENTS.items() if event.unsent & protocol or event.since > version
    )


@functools.lru_cache(maxsize=1024)
def unanswered_commands(protocol: Protocol) -> frozenset[CommandType]:
    """The commands that get no answer under these flags."""
    return frozenset(kind for kind, event in EVENTS.items() if event.unanswered & protocol)


@functools.lru_cache(maxsize=1024)
def allowed_edits(actions: Actions) -> frozenset[ReplyType]:
    """The edits that may be asked for by one who agreed to these actions."""
    return frozenset(kind for kind, action in EDIT_ACTIONS.items() if action in actions)


@functools.lru_cache(maxsize=1024)
def route(
    state: State,
    kinds: tuple[CommandType, ...],
    unsent: frozenset[CommandType],
    unanswered: frozenset[CommandType],
) -> tuple[State, CommandType | None] | None:
    """Where these commands lead, and which of them is answered; None if one of them is not legal
    there, or if one before the last is answered.  Repeated ones are looked at once only."""
    asked: CommandType | None = None
    for kind in kinds:
        after = NEXT[state].get(kind)
        if after is None or asked is not None or kind is m.Negotiate:
            return None
        state = after
        if kind in EVENTS and kind not in unsent and kind not in unanswered:
            asked = kind
    return state, asked


@functools.lru_cache(maxsize=256)
def moves_without(unsent: frozenset[CommandType]) -> Moves:
    """The table as a milter sees it that never hears of the `unsent` commands."""
    return {state: _reachable(state, unsent) for state in State}


def _reachable(state: State, unsent: frozenset[CommandType]) -> dict[CommandType, State]:
    """What may come in `state`, or after commands that came unseen."""
    found: dict[CommandType, State] = {}
    waiting, seen = [state], {state}
    while waiting:
        row = NEXT[waiting.pop(0)]
        for kind, after in row.items():
            found.setdefault(kind, after)
            if kind in unsent and after not in seen:
                seen.add(after)
                waiting.append(after)
    return found
