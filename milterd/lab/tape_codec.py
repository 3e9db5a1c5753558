"""The form of a tape: what is in it as values, and as octets.

A tape is a header and then records, each after the other; it is only ever added to.
docs/lab/tapes.md has the layout.  A file that ends within a record was cut off while it
was written: that is no error, `TapeReader.torn` tells of it.  Anything else that is not
exactly a tape is a `TapeError`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from milterd.wire.limits import Limits

Side = Literal["mta", "milter"]
Closer = Literal["mta", "milter", "recorder"]

MAGIC = b"\x93GPTAPE\n"
"""Not text, and broken by whatever changes line ends or drops the eighth bit."""
VERSION = 1
REDACTED = 1
"""The one flag there is."""
LONGEST = Limits().frame
"""Octets of a record's payload at most; a packet's length is not stored, so it is one too."""
MOST_OPEN = 65536
"""Connections that may be open at a time: what a reader has to remember."""

_HEADER = struct.Struct(">8sBBQ")
_LENGTH = struct.Struct(">I")
_LARGEST = 2**63 - 1


class TapeError(Exception):
    """Not a tape, or a damaged one: which file, at which octet, and what is wrong there."""

    def __init__(self, name: str, offset: int, reason: str) -> None:
        super().__init__(f"{name}: octet {offset}: {reason}")
        self.name, self.offset, self.reason = name, offset, reason


class Kind(enum.IntEnum):
    """The low three bits of a record's first number; zero is no record."""

    OPENED = 1
    CLOSED = 2
    MTA_PACKET = 3
    MILTER_PACKET = 4
    MTA_OCTETS = 5
    MILTER_OCTETS = 6
    NOTE = 7


@dataclass(frozen=True, slots=True)
class Header:
    """`started`: microseconds since 1970 (UTC).  `redacted`: contents were blanked."""

    started: int = 0
    redacted: bool = False

    def encode(self) -> bytes:
        """The octets a tape begins with."""
        return _HEADER.pack(MAGIC, VERSION, REDACTED if self.redacted else 0, self.started)


@dataclass(frozen=True, slots=True)
class Opened:
    """An MTA connected.  Connections are numbered from 1; `at` is in microseconds since
    the tape's start, here and in all records."""

    connection: int
    at: int


@dataclass(frozen=True, slots=True)
class Closed:
    """`by` ended its half of the connection, or, with `reset` or as the recorder, the whole."""

    connection: int
    at: int
    by: Closer
    reset: bool = False

    @property
    def final(self) -> bool:
        """Whether neither side can say anything more."""
        return self.reset or self.by == "recorder"


@dataclass(frozen=True, slots=True)
class Said:
    """Octets of one side: one whole packet, its length included, or a piece of what is none."""

    connection: int
    at: int
    side: Side
    octets: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Words of whoever made the tape, about a connection or, with 0, about all of it."""

    connection: int
    at: int
    text: str


Record = Opened | Closed | Said | Note


@dataclass(frozen=True, slots=True)
class Torn:
    """Where a record begins that was not written to its end, and how much of it is there."""

    offset: int
    octets: int


_SIDES: dict[Kind, tuple[Side, bool]] = {
    Kind.MTA_PACKET: ("mta", True),
    Kind.MILTER_PACKET: ("milter", True),
    Kind.MTA_OCTETS: ("mta", False),
    Kind.MILTER_OCTETS: ("milter", False),
}
_KINDS = {value: key for key, value in _SIDES.items()}
_CLOSERS: tuple[Closer, ...] = ("mta", "milter", "recorder")


def encode(record: Record, before: int) -> bytes:
    """A record as octets; `before` is the time of the record before it.

    ValueError for what no record can carry: a payload over LONGEST, or a packet whose
    length is not its own.
    """
    kind, payload = _payload(record)
    if len(payload) > LONGEST:
        raise ValueError(f"record of {len(payload)} octets, allowed are {LONGEST}")
    numbers = (record.connection << 3 | kind, max(record.at - before, 0), len(payload))
    return b"".join(_varint(each) for each in numbers) + payload


def _payload(record: Record) -> tuple[Kind, bytes]:
    match record:
        case Opened():
            return Kind.OPENED, b""
        case Closed():
            return Kind.CLOSED, bytes((_CLOSERS.index(record.by), record.reset))
        case Note():
            return Kind.NOTE, record.text.encode("utf-8", "backslashreplace")
        case Said():
            kind, octets = _KINDS[record.side, record.whole], record.octets
            if not record.whole:
                return kind, octets
            if len(octets) < 5 or _LENGTH.unpack_from(octets)[0] != len(octets) - 4:
                raise ValueError("a packet's length is not that of its octets")
            return kind, octets[4:]


def _varint(number: int) -> bytes:
    """Seven bits an octet, the lowest first, the eighth bit set on all but the last."""
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{number} is no number of 63 bits")
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


class _CutError(Exception):
    """The file ends within a record."""


class TapeReader:
    """A tape's records in their order, one at a time.

    `name` is for errors.  Raises TapeError, and OSError where the file cannot be read.
    `torn` is known once all records have been read.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.torn: Torn | None = None
        self._stream, self._offset = stream, 0
        self._at = self._last = 0
        self._open: dict[int, set[Closer]] = {}
        self.header = self._header()

    def __iter__(self) -> Iterator[Record]:
        while True:
            begin = self._offset
            try:
                record = self._record(begin)
            except _CutError:
                if self._offset > begin:
                    self.torn = Torn(begin, self._offset - begin)
                return
            yield record

    def _header(self) -> Header:
        found = self._stream.read(_HEADER.size)
        if found[: len(MAGIC)] != MAGIC or len(found) < _HEADER.size:
            raise TapeError(self.name, 0, "not a tape: its header is missing")
        _, version, flags, started = _HEADER.unpack(found)
        if version != VERSION:
            reason = f"a tape of version {version}; this program reads version {VERSION}"
            raise TapeError(self.name, len(MAGIC), reason)
        if flags & ~REDACTED:
            raise TapeError(self.name, len(MAGIC) + 1, f"flags {flags:#x}, known are {REDACTED:#x}")
        self._offset = _HEADER.size
        return Header(started, bool(flags & REDACTED))

    def _record(self, begin: int) -> Record:
        number = self._number()
        kind, connection = number & 7, number >> 3
        self._at += self._number()
        length = self._number()
        if kind == 0 or self._at > _LARGEST or length > LONGEST:
            raise TapeError(
                self.name, begin, f"no record: kind {kind}, time {self._at}, {length} octets"
            )
        try:
            return self._make(Kind(kind), connection, self._take(length))
        except ValueError as error:
            raise TapeError(self.name, begin, str(error)) from None

    def _make(self, kind: Kind, connection: int, payload: bytes) -> Record:
        """ValueError for what cannot be, after what came before."""
        if kind is Kind.OPENED:
            if payload or connection != self._last + 1 or len(self._open) >= MOST_OPEN:
                raise ValueError(f"connection {connection} opened after {self._last}")
            self._last = connection
            self._open[connection] = set()
            return Opened(connection, self._at)
        if kind is Kind.NOTE:
            if connection > self._last:
                raise ValueError(f"note on connection {connection}, which there is not yet")
            return Note(connection, self._at, payload.decode("utf-8", "backslashreplace"))
        closed = self._open.get(connection)
        if closed is None:
            raise ValueError(f"connection {connection} is not open")
        if kind is Kind.CLOSED:
            return self._closed(connection, closed, payload)
        side, whole = _SIDES[kind]
        if side in closed:
            raise ValueError(f"octets of the {side}'s, which has closed connection {connection}")
        if whole:
            if not payload:
                raise ValueError("a packet without octets")
            payload = _LENGTH.pack(len(payload)) + payload
        return Said(connection, self._at, side, payload, whole)

    def _closed(self, connection: int, closed: set[Closer], payload: bytes) -> Closed:
        if len(payload) != 2 or payload[0] >= len(_CLOSERS) or payload[1] > 1:
            raise ValueError(f"connection closed in a way that does not exist: {payload!r}")
        record = Closed(connection, self._at, _CLOSERS[payload[0]], bool(payload[1]))
        if record.by in closed:
            raise ValueError(f"connection {connection} closed twice by the {record.by}")
        closed.add(record.by)
        if record.final or len(closed) == 2:
            del self._open[connection]
        return record

    def _number(self) -> int:
        begin, value, shift = self._offset, 0, 0
        while True:
            octet = self._take(1)[0]
            value |= (octet & 0x7F) << shift
            if octet <= 0x7F:
                if shift and not octet:
                    raise TapeError(self.name, begin, "a number longer than it need be")
                return value
            shift += 7
            if shift > 56:
                raise TapeError(self.name, begin, "a number of more than 63 bits")

    def _take(self, size: int) -> bytes:
        found = self._stream.read(size)
        self._offset += len(found)
        if len(found) < size:
            raise _CutError
        return found
