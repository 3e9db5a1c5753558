"""The milter's side of a milter connection, without a socket.

`receive` gives events; one that wants an answer leaves `reply_due` set, and the
events behind it wait until `reply` has been called.  So a host does::

    events = connection.receive(data)
    while events:
        for event in events: ...     # at most the last one wants an answer
            if connection.reply_due: write(connection.reply(answer))
        events = connection.receive()

The first event is the MTA's offer (:class:`Negotiate`), answered by `negotiate`.
After an error the object refuses every further call.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from milterd.core.values import value
from milterd.wire import messages as m
from milterd.wire.commands import field_strings
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    NEWEST_VERSION,
    OLDEST_VERSION,
    PROTOCOL_OF_VERSION,
    Actions,
    Command,
    Protocol,
    Stage,
)
from milterd.wire.errors import LocalError, PeerError, WireError
from milterd.wire.frames import FrameDecoder
from milterd.wire.limits import Limits
from milterd.wire.replytext import parse_reply
from milterd.wire.states import (
    AFTER_REPLY,
    COMMAND_OF,
    EDIT_ACTIONS,
    EVENTS,
    NEXT,
    REPLIES,
    WITH_BODY,
    CommandType,
    Moves,
    ReplyType,
    State,
    allowed_edits,
    moves_without,
    unanswered_commands,
    unsent_commands,
)

_MACRO, _HEADER = Command.MACRO[0], Command.HEADER[0]
_WITH_BODY = {COMMAND_OF[kind][0]: kind.__name__ for kind in WITH_BODY}


@value
class Fields:
    """Header fields that came in a row, as names and values: what
    :meth:`MilterConnection.receive_runs` gives in place of a Header for each."""

    pairs: Sequence[tuple[bytes, bytes]]


Event = m.CommandMessage | Fields


@functools.lru_cache(maxsize=64)
def _stops(unanswered: frozenset[CommandType]) -> frozenset[int]:
    """The codes of frames behind which none is looked at yet: an answer comes first, or nothing
    more does."""
    asked = EVENTS.keys() - unanswered | {m.Negotiate, m.Quit}
    return frozenset(COMMAND_OF[kind][0] for kind in asked)


_STOPS_AT_FIRST = _stops(frozenset())

_Lists = tuple[tuple[Stage, tuple[str, ...]], ...]
_Terms = tuple[bool, frozenset[ReplyType], Moves, frozenset[CommandType], frozenset[int]]


@functools.lru_cache(maxsize=64)
def _agreement(
    ours: tuple[int, Actions, Protocol, _Lists], offer: tuple[int, Actions, Protocol]
) -> tuple[m.Negotiate, bytes, _Terms]:
    """What is agreed to, the octets that say so, and what follows for the conversation: the same
    on each of a program's connections to a milter."""
    version = min(ours[0], offer[0])
    actions = ours[1] & offer[1] & ACTIONS_OF_VERSION[version]
    protocol = ours[2] & offer[2] & PROTOCOL_OF_VERSION[version]
    macros = dict(ours[3]) if Actions.SETSYMLIST & offer[1] else {}
    if macros:
        actions |= Actions.SETSYMLIST
    agreed = m.Negotiate(version, actions, protocol, macros)
    unanswered = unanswered_commands(protocol)
    moves = moves_without(unsent_commands(protocol, version))
    leading_space = Protocol.HDR_LEADSPC in protocol
    terms = (leading_space, allowed_edits(actions), moves, unanswered, _stops(unanswered))
    return agreed, agreed.encode(), terms


class MilterConnection:
    """One connection from an MTA, seen from the milter.

    `accept_actions`: the edits the filter may ask for.  `accept_protocol`: the
    flags it would like in force.  `macros`: the names it wants at each stage, as
    they stand on the wire.  What the MTA does not offer is left out; look at the
    `agreed_*` properties.  Raises LocalError for a version that is not 2 to 6.
    """

    __slots__ = (
        "_actions",
        "_agreed",
        "_allowed",
        "_asked",
        "_frames",
        "_leading_space",
        "_limits",
        "_macros",
        "_moves",
        "_offer",
        "_packet",
        "_protocol",
        "_spoiled",
        "_state",
        "_stops",
        "_unanswered",
        "_version",
    )

    def __init__(
        self,
        *,
        accept_actions: Actions = Actions.NONE,
        accept_protocol: Protocol = Protocol.NONE,
        macros: Mapping[Stage, Sequence[str]] | None = None,
        version: int = NEWEST_VERSION,
        limits: Limits | None = None,
    ) -> None:
        if not OLDEST_VERSION <= version <= NEWEST_VERSION:
            raise LocalError(f"there is no milter protocol version {version}")
        self._version = version
        self._actions = accept_actions
        self._protocol = accept_protocol
        self._macros = tuple([(stage, tuple(names)) for stage, names in (macros or {}).items()])
        self._limits = limits or Limits()
        self._frames = FrameDecoder(self._limits.frame)
        self._state = State.START
        self._offer: m.Negotiate | None = None
        self._agreed = m.Negotiate(OLDEST_VERSION, Actions.NONE, Protocol.NONE)
        self._leading_space = False
        self._allowed: frozenset[ReplyType] = frozenset()
        self._asked: CommandType | None = None
        self._moves: Moves = NEXT
        self._unanswered: frozenset[CommandType] = frozenset()
        self._stops = _STOPS_AT_FIRST
        self._spoiled: WireError | None = None
        self._packet: tuple[bytes, m.Macros | None] = (b"", None)

    @property
    def state(self) -> State:
        """Where the conversation is."""
        return self._state

    @property
    def reply_due(self) -> bool:
        """Whether the last event wants an answer: `reply`, or `negotiate` for the offer."""
        return self._asked is not None

    @property
    def buffered(self) -> int:
        """Octets received that no event has been made of yet."""
        return self._frames.buffered

    @property
    def agreed_version(self) -> int:
        """The version both sides speak."""
        return self._agreed.version

    @property
    def agreed_actions(self) -> Actions:
        """The edits that may be asked for."""
        return self._agreed.actions

    @property
    def agreed_protocol(self) -> Protocol:
        """The flags in force."""
        return self._agreed.protocol

    @property
    def leading_space(self) -> bool:
        """Whether header values keep the space after their colon (HDR_LEADSPC)."""
        return self._leading_space

    def receive(self, data: bytes = b"") -> list[m.CommandMessage]:
        """The events up to, and with, the next one that wants an answer.

        Call it again, without data, after that answer.  Raises PeerError for
        anything ill-formed, out of place or over the limits.
        """
        return cast("list[m.CommandMessage]", self._received(data, together=False))

    def receive_runs(self, data: bytes = b"") -> list[Event]:
        """The same, with header fields in a row as one event.  Macros between them are left out:
        they are of one field each, and no milter's list names any for that."""
        return self._received(data, together=True)

    def negotiate(self) -> bytes:
        """The answer to the MTA's offer: what both sides can do."""
        self._check()
        offer = self._offer
        if offer is None or self._state is not State.NEGOTIATING:
            raise self._spoil(LocalError("there is no offer to answer"))
        ours = (self._version, self._actions, self._protocol, self._macros)
        offered = (offer.version, offer.actions, offer.protocol)
        self._agreed, octets, terms = _agreement(ours, offered)
        self._leading_space, self._allowed, self._moves, self._unanswered, self._stops = terms
        self._state, self._asked = State.READY, None
        return octets

    def reply(self, reply: m.Reply, *more: m.Reply) -> bytes:
        """The octets that answer the last event.

        At end of message edits and Progress may come before the answer, in the
        same call or in earlier ones.  Raises LocalError for an answer that is
        not due, not legal there, or not agreed.
        """
        self._check()
        try:
            return b"".join([self._reply(each) for each in (reply, *more)])
        except WireError as error:
            raise self._spoil(error) from None

    def eof(self) -> None:
        """The MTA closed, with or without Quit.  PeerError if half a frame was left."""
        self._check()
        if self._frames.buffered and self._asked is None:
            raise self._spoil(PeerError("connection closed within a frame"))
        self._state, self._asked = State.CLOSED, None

    def _check(self) -> None:
        if self._spoiled is not None:
            raise LocalError(f"connection is unusable after an error: {self._spoiled.reason}")

    def _spoil(self, error: WireError) -> WireError:
        self._spoiled = error
        self._frames.clear()
        return error

    def _received(self, data: bytes, *, together: bool) -> list[Event]:
        self._check()
        if self._is_over():
            return []
        try:
            if self._asked is not None:
                self._frames.feed(data)
                events = []
            else:
                frames, refused = self._frames.split(data, self._stops)
                events = self._events(frames, together)
                if refused is not None:
                    raise refused
            if self._frames.buffered > self._limits.backlog:
                raise PeerError("the MTA does not wait for the answer that is due")
        except WireError as error:
            raise self._spoil(error) from None
        if self._is_over():
            self._frames.clear()
        return events

    def _is_over(self) -> bool:
        return self._state is State.CLOSED

    def _events(self, frames: Iterable[tuple[int, bytes]], together: bool) -> list[Event]:
        """What frames mean, of which the last may want an answer."""
        events: list[Event] = []
        run: list[tuple[bytes, bytes]] | None = None
        for code, payload in frames:
            if code == _HEADER and together:
                pair = field_strings(payload)
                if run is None:
                    self._move(m.Header)
                    run = []
                    events.append(Fields(run))
                run.append(pair)
                continue
            event = self._event(code, payload)
            if run is not None and isinstance(event, m.Macros) and event.command[0] == _HEADER:
                continue
            run = None
            events.append(event)
        return events

    def _event(self, code: int, payload: bytes) -> m.CommandMessage:
        if code == _MACRO:
            return self._macro_packet(payload)
        if len(payload) > self._limits.body_chunk and code in _WITH_BODY:
            raise PeerError(
                f"{_WITH_BODY[code]} of {len(payload)} octets, allowed are "
                f"{self._limits.body_chunk}"
            )
        event = m.decode_command(code, payload)
        self._move(type(event))
        if isinstance(event, m.Negotiate):
            if event.version < OLDEST_VERSION:
                raise PeerError(f"offer of version {event.version}")
            self._offer = event
        return event

    def _macro_packet(self, payload: bytes) -> m.Macros:
        """MTAs send the same packet before each header field; so it is one object here too."""
        if payload == self._packet[0] and self._packet[1] is not None:
            return self._packet[1]
        event = m.decode_command(_MACRO, payload)
        if len(payload) > self._limits.macros:
            most = self._limits.macros
            raise PeerError(f"Macros of {len(payload)} octets, allowed are {most}")
        if self._state is State.START:
            raise PeerError("macros before the negotiation")
        if not isinstance(event, m.Macros):
            raise TypeError(f"a macro packet is no {type(event).__name__}")
        self._packet = payload, event
        return event

    def _move(self, kind: CommandType) -> None:
        after = self._moves[self._state].get(kind)
        if after is None:
            raise PeerError(f"{kind.__name__} {self._state.value}")
        if kind is m.Negotiate or (kind in EVENTS and kind not in self._unanswered):
            self._asked = kind
        self._state = after

    def _reply(self, reply: m.Reply) -> bytes:
        asked, kind = self._asked, type(reply)
        if asked is None:
            raise LocalError(f"{kind.__name__} while no answer is due")
        if kind not in REPLIES.get(asked, ()):
            raise LocalError(f"{kind.__name__} in answer to {asked.__name__}")
        if kind in EDIT_ACTIONS:
            if kind not in self._allowed:
                raise LocalError(f"{kind.__name__} was not agreed on")
        elif kind is not m.Progress:
            self._check_answer(reply)
            self._asked = None
            self._state = AFTER_REPLY[asked].get(kind, self._state)
        return reply.encode()

    def _check_answer(self, reply: m.Reply) -> None:
        if isinstance(reply, m.Skip) and Protocol.SKIP not in self._agreed.protocol:
            raise LocalError("Skip was not agreed on")
        if isinstance(reply, m.ReplyCode):
            try:
                parse_reply(reply.text, self._limits)
            except PeerError as error:
                raise LocalError(error.reason) from None
