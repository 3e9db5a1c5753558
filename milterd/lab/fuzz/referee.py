"""Whether what the MTA writes is legal, and so what may be asked of the milter.

It goes by `milterd.wire.mta` and, where real MTAs are narrower than its table, by them:
no frame over libmilter's limit, no QUIT_NC, nothing sent while an answer is due, an offer
of all that a version has, no event left out of a message (`skips_ahead`), and no value
that an MTA cannot have (`_can_be`).  Once something was not legal, nothing is
any more.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from ipaddress import ip_address

from milterd.core.mail import Family
from milterd.lab.link import STAGES
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    CHUNK,
    PROTOCOL_OF_VERSION,
)
from milterd.wire.errors import PeerError
from milterd.wire.frames import FrameDecoder
from milterd.wire.limits import Limits
from milterd.wire.mta import MtaConnection
from milterd.wire.states import EVENTS, NEXT, WITH_BODY, CommandType, State, unsent_commands

_LONGEST = Limits().frame
_SESSION = (m.Connect, m.Helo)
_GOES_ON = (m.Continue, m.Discard, m.Progress)


class Look(enum.Enum):
    """What there is to say to a write before it is sent."""

    LEGAL = enum.auto()
    UNWANTED = enum.auto()
    """The milter has negotiated or answered it away."""
    ILLEGAL = enum.auto()


class Referee:
    """Follows one connection.  `stage` is the last event's name."""

    def __init__(self) -> None:
        self.legal, self.over = True, False
        self.stage = "connection"
        self._mta: MtaConnection | None = None
        self._asked: type[m.CommandMessage] | None = None

    @property
    def awaiting(self) -> bool:
        """Whether the milter owes an answer."""
        return self.legal and self._mta is not None and self._mta.awaiting > 0

    @property
    def finished(self) -> bool:
        """Whether the milter may close: after QUIT, or when it said that it will."""
        return self._mta is not None and self._mta.state in (State.CLOSED, State.CLOSING)

    def look(self, octets: bytes) -> Look:
        """Whether this may come next."""
        commands = decoded(octets)
        if not self.legal or self.awaiting or not commands:
            return Look.ILLEGAL
        if self._mta is None:
            alone = len(commands) == 1 and isinstance(commands[0], m.Negotiate)
            return Look.LEGAL if alone and _may_offer(commands[0]) else Look.ILLEGAL
        events = [each for each in commands if not isinstance(each, m.Macros)]
        if not events or isinstance(commands[-1], m.Macros):
            return Look.ILLEGAL
        return self._moves(self._mta, events)

    def _moves(self, mta: MtaConnection, events: Sequence[m.CommandMessage]) -> Look:
        state = mta.state
        unsent = unsent_commands(mta.agreed_protocol, mta.agreed_version)
        for at, each in enumerate(events):
            kind = type(each)
            after = NEXT[state].get(kind)
            if after is None or kind in (m.Negotiate, m.QuitNewConnection):
                return Look.ILLEGAL
            if not _can_be(each) or skips_ahead(state, kind, mta.agreed_version):
                return Look.ILLEGAL
            if kind in EVENTS and at < len(events) - 1:
                return Look.ILLEGAL
            if kind in unsent or mta.skipping(kind):
                return Look.UNWANTED
            state = after
        return Look.LEGAL

    def pass_over(self, octets: bytes) -> None:
        """Note an unwanted write: it goes unsent, and the state is as after it."""
        for each in decoded(octets):
            if self._mta is not None and not isinstance(each, m.Macros):
                self._mta.send(each)

    def sent(self, octets: bytes, look: Look) -> None:
        """Note what was sent, after `look`."""
        commands = decoded(octets)
        named = [STAGES[type(each)] for each in commands if type(each) in STAGES]
        self.stage = named[-1] if named else "octets"
        if look is not Look.LEGAL:
            self.legal = False
            return
        for each in commands:
            if isinstance(each, m.Negotiate):
                self._mta = MtaConnection(
                    version=each.version, actions=each.actions, protocol=each.protocol
                )
                self._mta.negotiate()
                self._asked = m.Negotiate
            elif self._mta is not None and not isinstance(each, m.Macros):
                self._mta.send(each)
                self._asked = type(each)

    def heard(self, data: bytes) -> None:
        """Note what the milter said.  PeerError if that was not legal."""
        if not self.legal:
            return
        if self._mta is None:
            raise PeerError("octets before anything was asked")
        if self._mta.state is State.CLOSED:
            raise PeerError("an answer after QUIT")
        for reply in self._mta.receive(data):
            if self._asked in _SESSION and not isinstance(reply, (*_GOES_ON, Negotiated)):
                self.over = True  # for the whole session: an MTA asks no more


def decoded(octets: bytes) -> list[m.CommandMessage]:
    """The packets, if all are whole and well-formed; none otherwise."""
    frames = FrameDecoder(_LONGEST)
    frames.feed(octets)
    try:
        found = [(code, payload) for code, payload in frames]
        if frames.buffered or any(len(payload) > CHUNK for _, payload in found):
            return []
        return [m.decode_command(*each) for each in found]
    except PeerError:
        return []


def skips_ahead(state: State, kind: CommandType, version: int) -> bool:
    """Whether events that no MTA leaves out are left out: DATA, where the version has it,
    and the end of the header.  The table lets them, for those that the milter never sees."""
    if state is not State.RCPT:
        return False
    if version >= EVENTS[m.Data].since:
        return kind in (m.Header, m.EndOfHeaders, *WITH_BODY)
    return kind in WITH_BODY


def _can_be(command: m.CommandMessage) -> bool:
    """Whether an MTA can come to say this.

    A header field has a name, a client a valid address; Postfix sends no empty piece of
    body, and the body apart from the end of message.
    """
    match command:
        case m.Header():
            return command.name != b""
        case m.BodyChunk():
            return command.octets != b""
        case m.EndOfMessage():
            return command.octets == b""
        case m.Connect(family=Family.INET):
            return _is_address(command.address, 4)
        case m.Connect(family=Family.INET6):
            return _is_address(command.address, 6)
    return True


def _is_address(address: bytes, version: int) -> bool:
    try:
        return ip_address(address.decode("ascii")).version == version
    except ValueError:
        return False


def _may_offer(command: m.CommandMessage) -> bool:
    if not isinstance(command, m.Negotiate) or command.version not in ACTIONS_OF_VERSION:
        return False
    version = command.version
    whole = m.Negotiate(version, ACTIONS_OF_VERSION[version], PROTOCOL_OF_VERSION[version])
    return command == whole
