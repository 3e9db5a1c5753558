"""A conversation to be played: what the MTA writes, write by write, and how it ends.

`save` and `load` keep it in a tape.  A tape has packets, not writes: a note beside them
says where the writes end, so that what was sent in one piece is so again.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from milterd.lab.tape import Conversation as Taped
from milterd.lab.tape import Side, conversations, create, reading
from milterd.wire.constants import Command

_NOTE = re.compile(r"fuzz writes ([0-9,+]*) then (\w+)")
_MACRO = Command.MACRO[0]


class Ending(enum.Enum):
    """How the MTA ends the connection after its last write."""

    END = "end"
    """It closes its half, and waits for the milter to close."""
    DROP = "drop"
    """It is gone at once."""


@dataclass(frozen=True, slots=True)
class Write:
    """Octets written in one piece, or in several: `cuts` are where it is cut, ascending."""

    octets: bytes
    cuts: tuple[int, ...] = ()

    def pieces(self) -> Iterator[bytes]:
        """The octets as they are to be written."""
        at = 0
        for cut in (*self.cuts, len(self.octets)):
            if at < cut <= len(self.octets):
                yield self.octets[at:cut]
                at = cut


@dataclass(frozen=True, slots=True)
class Conversation:
    """`adapt`: leave out what may not come after the milter's answers, as an MTA would;
    without it every octet is sent, legal or not."""

    writes: tuple[Write, ...]
    ending: Ending = Ending.END
    adapt: bool = False

    @property
    def size(self) -> int:
        """Octets of all writes."""
        return sum(len(each.octets) for each in self.writes)


def save(path: Path, played: Conversation, said: Iterable[tuple[Side, bytes]], note: str) -> None:
    """Keep it in a new tape, with what both sides said.  OSError if that cannot be."""
    writes = ",".join("+".join(map(str, map(len, each.pieces()))) for each in played.writes)
    with create(path) as tape:
        form = f"fuzz writes {writes} then {played.ending.value}"
        tape.conversation(said, f"{note}\n{form}")


def load(path: Path) -> list[Conversation]:
    """All conversations of a tape.  TapeError or OSError if there is something wrong with it."""
    with reading(path) as tape:
        return [_conversation(each) for each in conversations(tape) if each.of("mta")]


def _conversation(taped: Taped) -> Conversation:
    for note in taped.notes:
        if (found := _NOTE.search(note)) and (cut := _cut(taped.of("mta"), found[1])) is not None:
            ending = Ending.DROP if found[2] == Ending.DROP.value else Ending.END
            return Conversation(cut, ending)
    reset = any(each.reset and each.by == "mta" for each in taped.closed)
    return Conversation(tuple(_by_packets(taped)), Ending.DROP if reset else Ending.END)


def _cut(octets: bytes, lengths: str) -> tuple[Write, ...] | None:
    """The writes that the note tells of; None if they are not what is there."""
    writes, at = [], 0
    for each in lengths.split(",") if lengths else []:
        cuts, end = [], at
        for length in each.split("+"):
            if not length:
                return None
            end += int(length)
            cuts.append(end - at)
        writes.append(Write(octets[at:end], tuple(cuts[:-1])))
        at = end
    return tuple(writes) if at == len(octets) else None


def _by_packets(taped: Taped) -> Iterator[Write]:
    """One write a packet, its macros with it."""
    held = b""
    for each in taped.said:
        if each.side != "mta":
            continue
        held += each.octets
        if not (each.whole and each.octets[4] == _MACRO):
            yield Write(held)
            held = b""
    if held:
        yield Write(held)
