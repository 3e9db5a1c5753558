"""What milters are told, made into frames once for all that hear it alike."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from milterd.wire import messages as wire
from milterd.wire.constants import Command as Code
from milterd.wire.constants import Stage
from milterd.wire.mta import MtaConnection
from milterd.wire.states import COMMAND_OF, CommandType
from smtpgw.chain.macros import Chosen, chosen

_CONTENT = (Code.HEADER, Code.END_OF_HEADERS, Code.BODY, Code.END_OF_MESSAGE)


class Hearing(dict[Code, Chosen]):
    """How one milter hears events: the macros it chose before each command, the events that it
    does not want, and whether it sees the space before a header's value.

    The macros are the same object for milters that chose the same.
    `content` is equal for those that hear a message alike.
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
        told = tuple(self[code] for code in _CONTENT)
        self.content: tuple[object, ...] = (leading_space, unsent, *told)

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


def hearing_of(connection: MtaConnection, daemon_name: str) -> Hearing:
    """How the milter hears that has negotiated on this connection; the same object for those that
    hear all alike."""
    wanted = tuple(connection.wanted.items())
    return _hearing(wanted, daemon_name, connection.unsent, connection.leading_space)


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
        made = self.made.get(chosen)
        if made is None:
            facts: dict[str, bytes] = {}
            for each in self.facts:
                facts.update(each)
            made = chosen.packet(self.code, facts) + self.command.encode()
            self.made[chosen] = made
        return made

    def with_facts(self, facts: Mapping[str, bytes]) -> Event:
        """The same event for a milter that hears more."""
        return Event(self.stage, self.command, *self.facts, facts)
