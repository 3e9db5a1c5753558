"""What an MTA sends to a milter, as frozen values; each encodes itself into a frame.

Names, addresses and arguments are the octets on the wire: addresses in angle
brackets as the client sent them, header values with LF for their folds and
without the space after the colon unless HDR_LEADSPC was agreed (see
:mod:`milterd.wire.convert`).  `encode` raises LocalError for values that no
frame can carry.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from milterd.core.mail import Family
from milterd.core.values import value
from milterd.wire.codec import (
    pack_number,
    pack_strings,
    unpack_nothing,
    unpack_number,
    unpack_strings,
)
from milterd.wire.constants import Actions, Command, Protocol, Stage
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.frames import frame

_U16 = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Negotiate:
    """An offer (MTA) or the answer to it (milter): version, edits, protocol flags.

    `macros` are the milter's own lists: names as they stand in macro packets,
    `i` or `{auth_type}`, for each stage it cares about.
    """

    version: int
    actions: Actions
    protocol: Protocol
    macros: Mapping[Stage, tuple[str, ...]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The frame; LocalError for a number or a name that does not fit."""
        parts = [pack_number(self.version), pack_number(self.actions), pack_number(self.protocol)]
        for stage, names in self.macros.items():
            parts += (pack_number(stage), _pack_names(names))
        return frame(Command.NEGOTIATE, b"".join(parts))


def _pack_names(names: tuple[str, ...]) -> bytes:
    text = " ".join(names)
    if not text.isascii() or text.replace(",", " ").split() != list(names):
        raise LocalError("a macro name holds white space, a comma or a character outside ASCII")
    return pack_strings(text.encode("ascii"))


@dataclass(frozen=True, slots=True)
class Connect:
    """A client connected: its host name, and where from.

    `port` and `address` mean nothing with an unknown family, and go unsent.
    """

    host: bytes
    family: Family = Family.UNKNOWN
    port: int = 0
    address: bytes = b""

    def encode(self) -> bytes:
        """The frame; LocalError for a port over 65535 or a NUL."""
        payload = pack_strings(self.host) + self.family.value
        if self.family is not Family.UNKNOWN:
            if not 0 <= self.port <= 0xFFFF:
                raise LocalError(f"{self.port} is no port")
            payload += _U16.pack(self.port) + pack_strings(self.address)
        return frame(Command.CONNECT, payload)


@dataclass(frozen=True, slots=True)
class Helo:
    """HELO or EHLO."""

    name: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.HELO, pack_strings(self.name))


@value
class MailFrom:
    """MAIL, with its ESMTP arguments."""

    address: bytes
    args: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.MAIL, pack_strings(self.address, *self.args))


@value
class RcptTo:
    """RCPT, with its ESMTP arguments."""

    address: bytes
    args: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.RCPT, pack_strings(self.address, *self.args))


@dataclass(frozen=True, slots=True)
class Data:
    """DATA (since version 4)."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.DATA)


@value
class Header:
    """One header field."""

    name: bytes
    value: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.HEADER, pack_strings(self.name, self.value))


@dataclass(frozen=True, slots=True)
class EndOfHeaders:
    """The blank line."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.END_OF_HEADERS)


@value
class BodyChunk:
    """A piece of the body, as it came, CRLF line ends included."""

    octets: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.BODY, self.octets)


@value
class EndOfMessage:
    """The end of the message.  Some MTAs let it carry the last piece of body."""

    octets: bytes = b""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.END_OF_MESSAGE, self.octets)


@dataclass(frozen=True, slots=True)
class Unknown:
    """An SMTP command the MTA does not know (since version 3)."""

    line: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.UNKNOWN, pack_strings(self.line))


@value
class Abort:
    """The transaction is over, or never was."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.ABORT)


@dataclass(frozen=True, slots=True)
class Quit:
    """The connection is over."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.QUIT)


@dataclass(frozen=True, slots=True)
class QuitNewConnection:
    """The SMTP session is over; the next one follows on the same connection."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Command.QUIT_NEW_CONNECTION)


@value
class Macros:
    """Macro names and values for the command that follows; there may be none."""

    command: Command
    values: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self) -> bytes:
        """The frame."""
        if not self.values:
            return frame(Command.MACRO, self.command)
        flat = [each for pair in self.values for each in pair]
        return frame(Command.MACRO, self.command + pack_strings(*flat))


CommandMessage = (
    Negotiate
    | Connect
    | Helo
    | MailFrom
    | RcptTo
    | Data
    | Header
    | EndOfHeaders
    | BodyChunk
    | EndOfMessage
    | Unknown
    | Abort
    | Quit
    | QuitNewConnection
    | Macros
)


def decode_negotiate(payload: bytes) -> Negotiate:
    """An offer or its answer; PeerError for a short one or a macro list out of form.

    Nobody changes the macro lists: a program negotiates alike on each of its connections, and
    gets one object for the same octets.
    """
    if len(payload) <= _USUAL:
        return _decode_usual(payload)
    return _decode_negotiate(payload)


def _decode_negotiate(payload: bytes) -> Negotiate:
    version, actions, protocol = (unpack_number(payload, at) for at in (0, 4, 8))
    macros: dict[Stage, tuple[str, ...]] = {}
    at, end = 12, len(payload)
    while at < end:
        stage = unpack_number(payload, at)
        stop = payload.find(b"\0", at + 4)
        if stop < 0:
            raise PeerError("macro list without its NUL")
        macros[_stage(stage)] = _names(payload[at + 4 : stop])
        at = stop + 1
    return Negotiate(version, Actions(actions), Protocol(protocol), macros)


_USUAL = 1024
"""Octets of a negotiation up to which it is remembered."""
_decode_usual = functools.lru_cache(maxsize=64)(_decode_negotiate)


def _stage(number: int) -> Stage:
    try:
        return Stage(number)
    except ValueError:
        raise PeerError(f"macro list for stage {number}, which does not exist") from None


def _names(octets: bytes) -> tuple[str, ...]:
    """Names apart by spaces or commas, as Postfix takes them."""
    if not octets.isascii():
        raise PeerError("macro name with octets outside ASCII")
    return tuple(octets.decode("ascii").replace(",", " ").split())


def _connect(payload: bytes) -> Connect:
    end = payload.find(b"\0")
    if end < 0 or end + 1 >= len(payload):
        raise PeerError("connect without a host name or a family")
    host, letter, rest = payload[:end], payload[end + 1 : end + 2], payload[end + 2 :]
    try:
        family = Family(letter)
    except ValueError:
        raise PeerError(f"connect from address family {letter!r}, which does not exist") from None
    if family is Family.UNKNOWN:
        unpack_nothing(rest)
        return Connect(host)
    if len(rest) < 2:
        raise PeerError("connect without a port")
    (address,) = unpack_strings(rest[2:], 1, 1)
    if family is Family.INET6 and address[:5].lower() == b"ipv6:":
        # Sendmail writes the address as in an SMTP literal; Postfix does not.
        address = address[5:]
    return Connect(host, family, _U16.unpack_from(rest)[0], address)


_COMMANDS: dict[bytes, Command] = {each.value: each for each in Command}


def _macros(payload: bytes) -> Macros:
    command = _COMMANDS.get(payload[:1])
    if command is None:
        raise PeerError(f"macros for command {payload[:1]!r}, which does not exist")
    if len(payload) == 1:
        return Macros(command)
    flat = unpack_strings(payload[1:])
    if len(flat) % 2:
        raise PeerError("macro without a value")
    pairs = iter(flat)
    return Macros(command, tuple(zip(pairs, pairs, strict=True)))


def _mail(payload: bytes) -> MailFrom:
    address, *args = unpack_strings(payload)
    return MailFrom(address, tuple(args))


def _rcpt(payload: bytes) -> RcptTo:
    address, *args = unpack_strings(payload)
    return RcptTo(address, tuple(args))


def field_strings(payload: bytes) -> tuple[bytes, bytes]:
    """Name and value that the frame of a header field holds; PeerError where it does not."""
    strings = payload.split(b"\0")
    if len(strings) != 3 or strings[2]:
        strings = unpack_strings(payload, 2, 2)  # which says what is wrong
    return strings[0], strings[1]


def _helo(payload: bytes) -> Helo:
    return Helo(*unpack_strings(payload, 1, 1))


def _unknown(payload: bytes) -> Unknown:
    return Unknown(*unpack_strings(payload, 1, 1))


def _data(payload: bytes) -> Data:
    unpack_nothing(payload)
    return Data()


def _end_of_headers(payload: bytes) -> EndOfHeaders:
    unpack_nothing(payload)
    return EndOfHeaders()


def _abort(payload: bytes) -> Abort:
    unpack_nothing(payload)
    return Abort()


def _quit(payload: bytes) -> Quit:
    unpack_nothing(payload)
    return Quit()


def _quit_new_connection(payload: bytes) -> QuitNewConnection:
    unpack_nothing(payload)
    return QuitNewConnection()


_DECODERS: dict[Command, Callable[[bytes], CommandMessage]] = {
    Command.NEGOTIATE: decode_negotiate,
    Command.CONNECT: _connect,
    Command.HELO: _helo,
    Command.MAIL: _mail,
    Command.RCPT: _rcpt,
    Command.DATA: _data,
    Command.HEADER: lambda payload: Header(*field_strings(payload)),
    Command.END_OF_HEADERS: _end_of_headers,
    Command.BODY: BodyChunk,
    Command.END_OF_MESSAGE: EndOfMessage,
    Command.UNKNOWN: _unknown,
    Command.ABORT: _abort,
    Command.QUIT: _quit,
    Command.QUIT_NEW_CONNECTION: _quit_new_connection,
    Command.MACRO: _macros,
}
_BY_CODE = {command[0]: decoder for command, decoder in _DECODERS.items()}


def decode_command(code: int, payload: bytes) -> CommandMessage:
    """What an MTA sent.  Raises PeerError for an unknown code or an ill-formed payload."""
    decoder = _BY_CODE.get(code)
    if decoder is None:
        raise PeerError(f"unknown command {bytes((code,))!r}")
    return decoder(payload)
