"""Tapes: conversations between MTAs and milters as they went over the wire, in a file.

`create` makes one, `TapeWriter.tap` fits the `tap` of `milterd.lab.link.connect`, `reading`
opens one, `conversations` gives it connection by connection.  The form is
`milterd.lab.tape_codec`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from milterd.lab.tape_codec import (
    LONGEST,
    Closed,
    Closer,
    Header,
    Note,
    Opened,
    Record,
    Said,
    Side,
    TapeError,
    TapeReader,
    Torn,
    encode,
)

__all__ = [
    "Closed", "Closer", "Conversation", "Header", "Note", "Opened", "Record", "Redactor", "Said",
    "Side", "Splitter", "TapeError", "TapeReader", "TapeWriter", "Torn", "conversations", "create",
    "reading",
]  # fmt: skip

_PIECE = 65536
_HELD = 256 * 1024 * 1024
_HOLD_COST = 200
"""What a record in memory costs beside its octets."""

Redactor = Callable[[Said], bytes]
"""What is written instead of the octets: as many."""


class Splitter:
    """Cuts one side's stream into whole packets, and pieces of what is none.

    After a length that cannot be, nothing is a packet any more.  Nothing is lost: all
    that was fed comes out, at the latest by `rest`.
    """

    __slots__ = ("_broken", "_buffer")

    def __init__(self) -> None:
        self._buffer, self._broken = bytearray(), False

    def feed(self, octets: bytes) -> Iterator[tuple[bytes, bool]]:
        """What has become whole; True with a packet."""
        self._buffer += octets
        buffer = self._buffer
        while len(buffer) >= 4 and not self._broken:
            length = int.from_bytes(buffer[:4], "big")
            if not 0 < length <= LONGEST:
                self._broken = True
                break
            if len(buffer) < length + 4:
                break
            yield bytes(buffer[: length + 4]), True
            del buffer[: length + 4]
        if self._broken:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[bytes, bool]]:
        """What is held back, half a packet, in pieces."""
        held = bytes(self._buffer)
        self._buffer.clear()
        for at in range(0, len(held), _PIECE):
            yield held[at : at + _PIECE], False


class TapeWriter:
    """Writes a tape, each record at once and whole.

    `redact` blanks what is said.  OSError when the file takes no more: the tape then ends
    with the last whole record, and every later call raises the same.
    """

    def __init__(
        self,
        file: FileIO,
        header: Header,
        clock: Callable[[], float] = time.monotonic,
        redact: Redactor | None = None,
    ) -> None:
        self.octets = self.heard_octets = self.packets = 0
        self._file, self._clock, self._redact = file, clock, redact
        self._start = clock()
        self._at = self._last = 0
        self._failed: OSError | None = None
        self._streams: dict[int, dict[Side, Splitter]] = {}
        self._put(header.encode())

    def opened(self) -> int:
        """A new connection's number."""
        self._last += 1
        self._streams[self._last] = {"mta": Splitter(), "milter": Splitter()}
        self.write(Opened(self._last, self._now()))
        return self._last

    def heard(self, connection: int, side: Side, octets: bytes) -> None:
        """Octets as they came from `side`, in whatever pieces."""
        self.heard_octets += len(octets)
        self._say(connection, side, self._streams[connection][side].feed(octets))

    def closed(self, connection: int, by: Closer, reset: bool = False) -> None:
        """One side ended its half, or with `reset` or by the recorder, all is over."""
        record = Closed(connection, self._now(), by, reset)
        streams = self._streams[connection]
        ended: tuple[Side, ...] = ("mta", "milter")
        if by != "recorder" and not reset:
            ended = (by,)
        for side in ended:
            if side in streams:
                self._say(connection, side, streams.pop(side).rest())
        self.write(record)
        if not streams:
            del self._streams[connection]

    def note(self, text: str, connection: int = 0) -> None:
        """Words about a connection, or the whole tape."""
        self.write(Note(connection, self._now(), text))

    def tap(self, connection: int) -> Callable[[Side, bytes], None]:
        """A function to be told of all octets of a connection."""
        return lambda side, octets: self.heard(connection, side, octets)

    def conversation(self, said: Iterable[tuple[Side, bytes]], note: str = "") -> None:
        """A whole connection at once, ended by the MTA."""
        connection = self.opened()
        if note:
            self.note(note, connection)
        for side, octets in said:
            self.heard(connection, side, octets)
        self.closed(connection, "mta")
        self.closed(connection, "milter")

    def write(self, record: Record) -> None:
        """A record with its own time and number, say one of another tape; for copying."""
        if isinstance(record, Said):
            self.packets += record.whole
            if self._redact is not None:
                octets = self._redact(record)
                record = Said(record.connection, record.at, record.side, octets, record.whole)
        data = encode(record, self._at)
        self._at = max(self._at, record.at)
        self._put(data)

    def close(self) -> None:
        """End the tape: what is open is noted as ended by the recorder."""
        try:
            if self._failed is None:
                for connection in list(self._streams):
                    self.closed(connection, "recorder")
        finally:
            self._file.close()

    def _say(self, connection: int, side: Side, pieces: Iterable[tuple[bytes, bool]]) -> None:
        for octets, whole in pieces:
            self.write(Said(connection, self._now(), side, octets, whole))

    def _now(self) -> int:
        return int((self._clock() - self._start) * 1_000_000)

    def _put(self, data: bytes) -> None:
        if self._failed is not None:
            raise self._failed
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._failed = error
            self._mend()
            raise
        self.octets += len(data)

    def _mend(self) -> None:
        """Take half a record away again; where that cannot be, readers find it torn."""
        if self._file.seekable():
            self._file.truncate(self.octets)


@contextmanager
def create(
    path: Path,
    redact: Redactor | None = None,
    *,
    started: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TapeWriter]:
    """A new tape, which only its owner can read: it holds mail.

    `started` is in seconds since 1970, now if not given.  OSError if it cannot be made;
    FileExistsError if there is such a file, whatever is in it.
    """
    begun = time.time() if started is None else started
    file = FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))
    with file:
        header = Header(round(begun * 1_000_000), redact is not None)
        writer = TapeWriter(file, header, clock, redact)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def reading(path: Path) -> Iterator[TapeReader]:
    """A tape to read.  TapeError if it is none, OSError if it cannot be read."""
    with path.open("rb") as stream:
        yield TapeReader(stream, str(path))


@dataclass(slots=True)
class Conversation:
    """All of one connection, in its order: `at` is when it was opened."""

    connection: int
    at: int = 0
    said: list[Said] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def turns(self) -> list[tuple[Side, bytes]]:
        """Who said what."""
        return [(each.side, each.octets) for each in self.said]

    def of(self, side: Side) -> bytes:
        """All octets of one side."""
        return b"".join(each.octets for each in self.said if each.side == side)

    @property
    def over(self) -> bool:
        """Whether both sides have ended."""
        return len(self.closed) == 2 or any(each.final for each in self.closed)


def conversations(reader: TapeReader, most: int = _HELD) -> Iterator[Conversation]:
    """The connections in the order in which they ended, then those that did not.

    `most`: octets that may be held, of all that are open together; more is a TapeError.
    """
    held: dict[int, Conversation] = {}
    size = 0
    for record in reader:
        if record.connection not in held and not isinstance(record, Opened):
            continue  # a note on the whole tape, or after the end
        each = held.setdefault(record.connection, Conversation(record.connection, record.at))
        size += _keep(each, record)
        if size > most:
            reason = f"more than {most} octets of conversations that are open at a time"
            raise TapeError(reader.name, 0, reason)
        if each.over:
            size -= _size(held.pop(record.connection))
            yield each
    yield from held.values()


def _keep(each: Conversation, record: Record) -> int:
    """Add a record; how much more is held then."""
    match record:
        case Said():
            each.said.append(record)
            return len(record.octets) + _HOLD_COST
        case Closed():
            each.closed.append(record)
        case Note():
            each.notes.append(record.text)
            return len(record.text) + _HOLD_COST
    return 0


def _size(each: Conversation) -> int:
    said = sum(len(one.octets) + _HOLD_COST for one in each.said)
    return said + sum(len(one) + _HOLD_COST for one in each.notes)
