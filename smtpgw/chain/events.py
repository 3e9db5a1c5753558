"""What milters are told, made into frames once for all that hear it alike."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from milterd.base.one_for import one_for
from milterd.wire import messages as wire
from milterd.wire.agreement import Agreement
from milterd.wire.constants import Command as Code
from milterd.wire.constants import Stage
from milterd.wire.states import COMMAND_OF, CommandType
from smtpgw.chain.macros import Chosen, chosen

_DIALOGUE: Mapping[CommandType, Code] = {
    wire.Connect: Code.CONNECT,
    wire.Helo: Code.HELO,
    wire.MailFrom: Code.MAIL,
    wire.RcptTo: Code.RCPT,
    wire.Data: Code.DATA,
}
_REST: Mapping[CommandType, Code] = {
    wire.EndOfHeaders: Code.END_OF_HEADERS,
    wire.BodyChunk: Code.BODY,
    wire.EndOfMessage: Code.END_OF_MESSAGE,
}


class Hearing(dict[Code, Chosen]):
    """How one milter hears events: the macros it chose before each command, the events that it
    does not want, and whether it sees the space before a header's value.

    The macros are the same object for milters that chose the same.  So are `dialogue`, `header`
    and `rest` for those that hear alike what comes up to DATA, the header, and what comes behind
    it.
    """

    def __init__(
        self,
        wanted: Mapping[Stage, tuple[str, ...]],
        daemon_name: str,
        unsent: frozenset[CommandType] = frozenset(),
        leading_space: bool = False,
    ) -> None:
        super().__init__()
        self._wanted, self._daemon_name = wanted, daemon_name
        self.unsent, self.leading_space = unsent, leading_space
        self.dialogue = self._key(_DIALOGUE)
        self.header = one_for(leading_space, wire.Header in unsent or self[Code.HEADER])
        self.rest = self._key(_REST)

    def _key(self, codes: Mapping[CommandType, Code]) -> object:
        told = [None if kind in self.unsent else self[code] for kind, code in codes.items()]
        return one_for(*told)

    def __missing__(self, code: Code) -> Chosen:
        found = self[code] = chosen(code, self._wanted, self._daemon_name)
        return found


@functools.lru_cache(maxsize=256)
def _hearing(
    wanted: tuple[tuple[Stage, tuple[str, ...]], ...],
    daemon_name: str,
    unsent: frozenset[CommandType],
    leading_space: bool,
) -> Hearing:
    return Hearing(dict(wanted), daemon_name, unsent, leading_space)


@functools.lru_cache(maxsize=256)
def hearing_of(agreement: Agreement, daemon_name: str) -> Hearing:
    """How the milter hears that has agreed so; the same object for those that hear all alike."""
    wanted = tuple(agreement.agreed.macros.items())
    return _hearing(wanted, daemon_name, agreement.unsent, agreement.leading_space)


Frames = tuple[tuple[CommandType, ...], bytes]
"""Events, those of one kind in a row once, and their frames."""
_IN_A_ROW = frozenset[CommandType]({wire.RcptTo, wire.Helo, wire.Unknown})


class Event:
    """One event before the content; `stage` is its word in log and reasons.

    `facts` are the macros by name without braces, in several mappings of which a later one counts
    more; nobody changes them.
    """

    __slots__ = ("code", "command", "facts", "kind", "made", "stage")

    def __init__(
        self, stage: str, command: wire.CommandMessage, *facts: Mapping[str, bytes]
    ) -> None:
        self.stage, self.command, self.facts = stage, command, facts
        self.kind: CommandType = type(command)
        self.code = COMMAND_OF[self.kind]
        self.made: dict[Chosen, bytes] = {}
        """The frames by the macros before them, where somebody has asked for them."""

    def octets(self, hearing: Hearing) -> bytes:
        """The event's frames, its macros first.  Raises LocalError for what no frame can carry."""
        chosen = hearing[self.code]
        if chosen not in self.made:
            facts: dict[str, bytes] = {}
            for each in self.facts:
                facts |= each
            self.made[chosen] = chosen.packet(self.code, facts) + self.command.encode()
        return self.made[chosen]

    def with_facts(self, facts: Mapping[str, bytes]) -> Event:
        """The same event for a milter that hears more."""
        return Event(self.stage, self.command, *self.facts, facts)


def frames_of(events: Sequence[Event], hearing: Hearing) -> Frames:
    """What a milter that hears so is told of these events, but for what it does not want."""
    unsent = hearing.unsent
    kinds, before = [each.kind for each in events], None
    if len(set(kinds)) < len(kinds):
        told, kinds = kinds, []
        for kind in told:
            if kind is not before or kind not in _IN_A_ROW:
                kinds.append(kind)
            before = kind
    octets = b"".join([each.octets(hearing) for each in events if each.kind not in unsent])
    return tuple(kinds), octets


class Said:
    """The commands of a session and its transaction that no milter has been told of yet, kept once
    for all those that hear of them with the message; `whole` as long as they all do, and none has
    failed."""

    __slots__ = ("events", "made", "whole")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.whole = True
        self.made: dict[object, Frames] = {}
        """The frames by :attr:`Hearing.dialogue`, where somebody has asked for them."""

    def frames(self, hearing: Hearing) -> Frames:
        """What a milter is told; once asked for, nothing may be added to the events."""
        made = self.made
        if hearing.dialogue not in made:
            made[hearing.dialogue] = frames_of(self.events, hearing)
        return made[hearing.dialogue]
