"""The drop directory: where mail handed in on this machine waits for the gateway.

    public    what the command has to know: our name, limits, who may submit (JSON)
    wake      a datagram socket; whoever drops a mail pokes it
    new/      mode 1733: anybody may put a file here, nobody but the gateway sees which
    taken/    mode 0700: files the gateway works on
    corrupt/  mode 0700: files that no gateway would have wanted

A drop file holds a line with its version, a line of JSON with the envelope (:class:`Ticket`),
the message with CRLF line ends, and a trailer with the message's length and the CRC-32 of all
before it: what a crash tore is known by that.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from milterd.core.mail import Envelope, Recipient

DEFAULT = "/var/lib/gatepost/queue/drop"
"""Where it is with the default settings."""

NEW, TAKEN, CORRUPT, PUBLIC, WAKE = "new", "taken", "corrupt", "public", "wake"

NAME = re.compile(r"[0-9a-f]{32}\Z")
"""A drop file's name: 128 random bits, so that nobody finds it without reading the directory."""

UNFINISHED = "tmp."
"""What stands before the name while the file is being written."""

MAGIC = b"GATEPOST-DROP 1\n"
MAX_TICKET = 4 * 1024 * 1024
"""Octets of the envelope's line."""

_TRAILER = re.compile(rb"END ([0-9a-f]{8}) ([0-9]{20})\n\Z")
TRAILER_SIZE = 34
_PIECE = 65536


class Torn(ValueError):  # noqa: N818 - the name says what happened
    """Not a whole drop file."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The envelope of a mail that was handed in, and when (seconds since 1970)."""

    envelope: Envelope
    arrived: float

    def encode(self) -> bytes:
        """The octets before the message.  Raises ValueError beyond MAX_TICKET."""
        envelope = self.envelope
        facts = {
            "sender": envelope.sender.decode("latin-1"),
            "args": _texts(envelope.sender_args),
            "recipients": [
                [each.address.decode("latin-1"), _texts(each.args)] for each in envelope.recipients
            ],
            "arrived": self.arrived,
        }
        line = json.dumps(facts, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_TICKET:
            raise ValueError("the envelope is too large")
        return MAGIC + line


def trailer(checksum: int, length: int) -> bytes:
    """The octets after a message of `length` octets; the CRC-32 is of all that was written."""
    return b"END %08x %020d\n" % (checksum, length)


class DropReader:
    """Reads a drop file.  `file` stands at its beginning and can seek; its owner may be
    anybody, so nothing in it is believed.  Raises Torn, OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = file.seek(0, 2)
        file.seek(0)
        magic = file.read(len(MAGIC))
        line = file.readline(MAX_TICKET + 1)
        self._checksum = zlib.crc32(line, zlib.crc32(magic))
        self.length = size - len(magic) - len(line) - TRAILER_SIZE
        """Octets of the message."""
        if magic != MAGIC:
            raise Torn("not a drop file of a version that is known")
        if not line.endswith(b"\n") or self.length < 0:
            raise Torn("the file ends too early")
        self.ticket = _ticket(line)

    def pieces(self) -> Iterator[bytes]:
        """The message, once.  Only when this has come to its end it is known to be whole."""
        left, checksum = self.length, self._checksum
        while left:
            piece = self._file.read(min(left, _PIECE))
            if not piece:
                raise Torn("the file became shorter")
            left -= len(piece)
            checksum = zlib.crc32(piece, checksum)
            yield piece
        match = _TRAILER.match(self._file.read(TRAILER_SIZE + 1))
        if match is None:
            raise Torn("the file ends too early")
        if (int(match[1], 16), int(match[2])) != (checksum, self.length):
            raise Torn("the file is not what was written")


def _texts(args: tuple[bytes, ...]) -> list[str]:
    return [each.decode("latin-1") for each in args]


def _ticket(line: bytes) -> Ticket:
    try:
        facts = json.loads(line)
        recipients = tuple(
            Recipient(_octets(address), tuple(map(_octets, args)))
            for address, args in facts["recipients"]
        )
        args = tuple(map(_octets, facts["args"]))
        arrived = facts["arrived"]
        if not isinstance(arrived, int | float):
            raise TypeError("arrived is no number")  # noqa: TRY301 - one place makes it Torn
        return Ticket(Envelope(_octets(facts["sender"]), args, recipients), float(arrived))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise Torn(f"the envelope cannot be read: {error}") from error


def _octets(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value.encode("latin-1")


@dataclass(frozen=True, slots=True)
class Public:
    """What the gateway tells the command.  Sizes are octets; `authorized_submit_users` are
    login names, or `static:anyone` (postconf(5))."""

    myorigin: str
    message_size_limit: int
    header_size_limit: int
    authorized_submit_users: tuple[str, ...] = ("static:anyone",)

    def encode(self) -> bytes:
        """As it stands in the file `public`."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"version": 1, **facts}).encode() + b"\n"

    @classmethod
    def decode(cls, octets: bytes) -> Public:
        """Raises ValueError."""
        try:
            facts = json.loads(octets)
            return cls(
                str(facts["myorigin"]),
                int(facts["message_size_limit"]),
                int(facts["header_size_limit"]),
                tuple(map(str, facts["authorized_submit_users"])),
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"cannot be read: {error}") from error

    def admits(self, login: str) -> bool:
        """Whether this user may hand in mail."""
        return authorized(login, self.authorized_submit_users)


def authorized(login: str, users: tuple[str, ...]) -> bool:
    """The first entry that fits decides; `!name` keeps a user out."""
    for each in users:
        if each == "static:anyone" or each.removeprefix("!") == login:
            return not each.startswith("!")
    return False
