"""The MTA's side of a milter connection, without a socket.

Give `send` the events of an SMTP session in their order; it says what octets to
write, and nothing for what the milter does not want.  Give `receive` what comes
back.  One answer is due at a time: while `awaiting` is 1, nothing but Quit may
be sent.  After an error the object refuses every further call; the connection
must be dropped, and no edit that came on it counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milterd.wire import messages as m
from milterd.wire.agreement import NOTHING_YET, Agreement, Negotiated, Offer, usual_offer
from milterd.wire.constants import (
    NEWEST_VERSION,
    OLDEST_VERSION,
    Actions,
    Command,
    Protocol,
    Response,
    Stage,
)
from milterd.wire.errors import LocalError, PeerError, WireError
from milterd.wire.frames import HEAD, FrameDecoder
from milterd.wire.limits import Limits
from milterd.wire.replytext import parse_reply
from milterd.wire.states import (
    AFTER_REPLY,
    COMMAND_OF,
    EDIT_ACTIONS,
    EVENTS,
    NEXT,
    REPLIES,
    TOLERATED,
    WITH_BODY,
    CommandType,
    ReplyType,
    State,
    route,
)

_CONTINUE = m.Continue()
_CONTINUE_FRAME = _CONTINUE.encode()
_CONTINUE_CODE = Response.CONTINUE[0]
_NEGOTIATE_CODE = Command.NEGOTIATE[0]
_AFTER_CONTINUE = {
    kind: AFTER_REPLY[kind].get(m.Continue)
    for kind, those in REPLIES.items()
    if m.Continue in those
}
"""The events that may be answered so, and the state that it leads to where it leads elsewhere."""


class MtaConnection:
    """One connection to a milter, seen from the MTA.

    `version`, `actions` and `protocol` are what to offer; what a version does
    not have is left out of the offer.  `offer` is one made as it is instead, for
    those who test a milter: with bits and versions that nobody knows.  With
    `macros_always` macro packets go out as Postfix's and Sendmail's do: an empty
    one for an empty list, and before events that the milter does not want, the
    content of the message apart.  Raises LocalError for a version that is not 2 to 6.
    """

    __slots__ = (
        "_agreement",
        "_edit_octets",
        "_edits",
        "_fed",
        "_frames",
        "_limits",
        "_macros_always",
        "_new_body",
        "_offer",
        "_skip",
        "_spoiled",
        "_state",
        "_unanswered",
        "_unsent",
        "_violations",
        "asked",
        "violated",
    )

    def __init__(
        self,
        *,
        version: int = NEWEST_VERSION,
        actions: Actions = Actions.ALL,
        protocol: Protocol = Protocol.ALL,
        limits: Limits | None = None,
        offer: m.Negotiate | None = None,
        macros_always: bool = False,
    ) -> None:
        if not OLDEST_VERSION <= version <= NEWEST_VERSION:
            raise LocalError(f"there is no milter protocol version {version}")
        self._limits = limits or Limits()
        self._macros_always = macros_always
        self._offer = Offer(offer) if offer else usual_offer(version, actions, protocol)
        self._agreement = NOTHING_YET
        self._state = State.START
        self._frames = FrameDecoder(self._limits.frame)
        self.asked: CommandType | None = None
        """The event whose answer is due; to be looked at only."""
        self._skip: CommandType | None = None
        self._spoiled: WireError | None = None
        self._unsent: frozenset[CommandType] = frozenset()
        self._unanswered: frozenset[CommandType] = frozenset()
        self._violations: dict[str, None] = {}
        self.violated = 0
        """How many :attr:`violations` there are; to be looked at only."""
        self._edits = self._edit_octets = self._new_body = self._fed = 0

    @property
    def state(self) -> State:
        """Where the conversation is."""
        return self._state

    @property
    def awaiting(self) -> int:
        """How many answers are due: 0 or 1."""
        return 0 if self.asked is None else 1

    @property
    def agreement(self) -> Agreement:
        """What follows from the negotiation; one object for all milters that agreed alike."""
        return self._agreement

    @property
    def agreed_version(self) -> int:
        """The version both sides speak."""
        return self._agreement.agreed.version

    @property
    def agreed_actions(self) -> Actions:
        """The edits this milter said it may ask for."""
        return self._agreement.agreed.actions

    @property
    def agreed_protocol(self) -> Protocol:
        """The flags in force."""
        return self._agreement.agreed.protocol

    @property
    def wanted(self) -> Mapping[Stage, tuple[str, ...]]:
        """The macro names the milter asked for, as they stand on the wire, by stage."""
        return self._agreement.agreed.macros

    @property
    def allowed(self) -> frozenset[ReplyType]:
        """The kinds of edits that the milter said it may ask for."""
        return self._agreement.allowed

    @property
    def leading_space(self) -> bool:
        """Whether header values keep the space after their colon (HDR_LEADSPC)."""
        return self._agreement.leading_space

    @property
    def unsent(self) -> frozenset[CommandType]:
        """The events that the milter does not want to hear of."""
        return self._unsent

    @property
    def unanswered(self) -> frozenset[CommandType]:
        """The events that the milter does not answer."""
        return self._unanswered

    @property
    def quiet(self) -> bool:
        """Whether the milter answers nothing before the end of a message."""
        return self._agreement.quiet

    @property
    def violations(self) -> tuple[str, ...]:
        """What the milter did that it should not, and that was let pass; each once."""
        return tuple(self._violations)

    @property
    def taken(self) -> int:
        """Octets of the milter's in whole packets that were good: where a bad one begins."""
        return self._fed - self._frames.buffered

    def skipping(self, kind: CommandType) -> bool:
        """Whether the milter asked for no more events of this kind for now."""
        return self._skip is kind

    def negotiate(self) -> bytes:
        """The offer, which opens the conversation; an answer is due then."""
        self._check()
        if self._state is not State.START:
            raise self._spoil(LocalError("negotiation comes once, and first"))
        self._state, self.asked = State.NEGOTIATING, m.Negotiate
        return self._offer.octets

    def send(
        self, command: m.CommandMessage, macros: Sequence[tuple[bytes, bytes]] | None = None
    ) -> bytes:
        """The octets for `command`, its macros before it; none if it is not wanted.

        No macro packet goes out for None.  Raises LocalError for a move that is not
        legal now, or for a value that no frame can carry.
        """
        wanted = self.move(type(command))
        return self._encode(command, macros, wanted)

    def move(self, kind: CommandType) -> bool:
        """Go on to an event whose octets the caller has; whether the milter is to have them.

        For those who show one event to many milters, and encode it once.  Raises as `send`.
        """
        self._check()
        after = NEXT[self._state].get(kind)
        if after is None or kind is m.Negotiate:
            raise self._spoil(LocalError(f"{kind.__name__} may not come {self._state.value}"))
        if self.asked is not None and kind is not m.Quit:
            raise self._spoil(LocalError(f"{kind.__name__} while an answer is due"))
        wanted = self._is_wanted(kind)
        if kind is m.MailFrom:
            self._edits = self._edit_octets = self._new_body = 0
        self._state = after
        answered = wanted and kind in EVENTS and kind not in self._unanswered
        self.asked = kind if answered else None
        return wanted

    def run(self, kinds: tuple[CommandType, ...]) -> None:
        """Go on over many events at once, whose octets the caller has; those of one kind in a
        row may stand there once.

        Only the last may be one that is answered.  Raises LocalError as `send` does.
        """
        if self._spoiled is not None:
            self._check()
        if self.asked is not None:
            raise self._spoil(LocalError(f"{kinds[0].__name__} while an answer is due"))
        found = route(self._state, kinds, self._unsent, self._unanswered)
        if found is None:
            names = ", ".join(each.__name__ for each in kinds)
            raise self._spoil(LocalError(f"{names} may not come {self._state.value}"))
        if m.MailFrom in kinds:
            self._edits = self._edit_octets = self._new_body = 0
        self._state, self.asked = found
        self._skip = None

    def receive(self, data: bytes) -> list[m.Reply | Negotiated]:
        """What the milter answered.

        Raises PeerError for anything ill-formed, unasked for, out of place or
        over the limits; after Quit nothing counts any more.  An edit that was
        not negotiated is given out all the same and noted in `violations`, as
        MTAs do.
        """
        if self._spoiled is not None:
            self._check()
        if self._state is State.CLOSED:
            return []
        self._fed += len(data)
        asked = self.asked
        if data == _CONTINUE_FRAME and asked in _AFTER_CONTINUE and not self._frames.buffered:
            return [self._go_on(asked)]
        frames, fault = self._frames.split(data)
        found = []
        try:
            for code, payload in frames:
                found.append(self._take(code, payload))
        except WireError as error:
            self._fed -= sum(len(payload) + HEAD for _, payload in frames[len(found) :])
            raise self._spoil(error) from None
        if fault is not None:
            raise self._spoil(fault)
        return found

    def eof(self) -> None:
        """The milter closed.  PeerError if an answer was due, or half of one came."""
        self._check()
        if self.asked is not None or self._frames.buffered:
            raise self._spoil(PeerError("connection closed with an answer due"))
        self._state = State.CLOSED

    def _check(self) -> None:
        if self._spoiled is not None:
            raise LocalError(f"connection is unusable after an error: {self._spoiled.reason}")

    def _spoil(self, error: WireError) -> WireError:
        self._spoiled = error
        self._fed -= self._frames.buffered
        self._frames.clear()
        return error

    def _is_wanted(self, kind: CommandType) -> bool:
        """Whether the milter wants this event; another kind of event ends a skip."""
        if kind is self._skip:
            return False
        self._skip = None
        return kind not in self._unsent

    def _encode(
        self,
        command: m.CommandMessage,
        macros: Sequence[tuple[bytes, bytes]] | None,
        wanted: bool,
    ) -> bytes:
        if self._macros_always:
            told = macros is not None and (wanted or self._announces(type(command)))
        else:
            told = wanted and bool(macros)
        if isinstance(command, WITH_BODY):
            size, most = len(command.octets), self._limits.body_chunk
            if size > most:
                raise self._spoil(LocalError(f"body piece of {size} octets, allowed are {most}"))
        try:
            octets = command.encode() if wanted else b""
            if told:
                octets = m.Macros(COMMAND_OF[type(command)], tuple(macros or ())).encode() + octets
        except WireError as error:
            raise self._spoil(error) from None
        return octets

    def _announces(self, kind: CommandType) -> bool:
        """Whether an MTA sends macros for this event although the milter does not want it."""
        if kind not in EVENTS or kind in (m.Header, m.EndOfHeaders, m.BodyChunk):
            return False
        return EVENTS[kind].since <= self._agreement.agreed.version and kind is not self._skip

    def _take(self, code: int, payload: bytes) -> m.Reply | Negotiated:
        asked = self.asked
        if code == _CONTINUE_CODE and not payload and asked in _AFTER_CONTINUE:
            return self._go_on(asked)
        if code == _NEGOTIATE_CODE and asked is not None:
            return self._take_negotiation(payload)
        reply = m.decode_reply(code, payload)
        kind = type(reply)
        if asked is None or isinstance(reply, m.Negotiate):
            raise PeerError(f"{kind.__name__} that nobody asked for")
        if kind not in REPLIES.get(asked, ()):
            if kind not in TOLERATED.get(asked, ()):
                raise PeerError(f"{kind.__name__} in answer to {asked.__name__}")
            self._note(f"{kind.__name__} in answer to {asked.__name__}")
        if kind in EDIT_ACTIONS:
            self._count(reply, len(payload))
        elif kind is not m.Progress:
            self._settle(asked, reply)
        return reply

    def _go_on(self, asked: CommandType) -> m.Continue:
        """Take CONTINUE, the commonest answer."""
        self.asked = None
        self._state = _AFTER_CONTINUE[asked] or self._state
        return _CONTINUE

    def _settle(self, asked: CommandType, reply: m.Reply) -> None:
        """Take the answer that was due."""
        if isinstance(reply, m.ReplyCode):
            parse_reply(reply.text, self._limits)
        elif isinstance(reply, m.Skip):
            self._skip = asked
            if Protocol.SKIP not in self._agreement.agreed.protocol:
                self._note("Skip without having negotiated it")
        self.asked = None
        self._state = AFTER_REPLY[asked].get(type(reply), self._state)

    def _count(self, reply: m.Reply, octets: int) -> None:
        """Hold an edit against the limits and the negotiation."""
        if type(reply) not in self._agreement.allowed:
            self._note(f"{type(reply).__name__} without having negotiated it")
        limits = self._limits
        if type(reply) is m.ReplaceBodyChunk:
            self._new_body += octets
            if octets > limits.body_chunk or self._new_body > limits.replaced_body:
                raise PeerError(f"new body in a piece of {octets} of {self._new_body} octets")
            return
        self._edits += 1
        self._edit_octets += octets
        if self._edits > limits.edits or self._edit_octets > limits.edit_octets:
            raise PeerError(f"{self._edits} edits of {self._edit_octets} octets")

    def _take_negotiation(self, payload: bytes) -> Negotiated:
        if self.asked is not m.Negotiate:
            raise PeerError("negotiation comes once, and first")
        found = self._agreement = self._offer.answered(payload)
        self._unsent, self._unanswered = found.unsent, found.unanswered
        for each in found.violations:
            self._note(each)
        self._state, self.asked = State.READY, None
        return found.agreed

    def _note(self, violation: str) -> None:
        self._violations[violation] = None
        self.violated = len(self._violations)
