"""Dovecot's auth client protocol, version 1: lines of words parted by tabs.  Sans-I/O.

Ours:     VERSION CPID AUTH CONT CANCEL
Dovecot's: VERSION MECH SPID CUID COOKIE DONE, then OK CONT FAIL

https://doc.dovecot.org, "Authentication Protocol v1.x".  What a client has sent stands in none
of our lines but as base64, and in `user=` and the like of Dovecot's answers, escaped.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smtpgw.edge.auth import Mechanism

MAJOR, MINOR = 1, 1
LONGEST_LINE = 65_536
"""Octets of one of Dovecot's lines: beyond that it is no Dovecot."""
MOST_MECHANISMS = 100

_ESCAPES = {b"\x01": b"\x011", b"\t": b"\x01t", b"\r": b"\x01r", b"\n": b"\x01n", b"\0": b"\x010"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPES.items()}
_NAME = re.compile(rb"[A-Za-z0-9_-]{1,20}\Z")
_NUMBER = re.compile(rb"[0-9]{1,10}\Z")


class ProtocolError(Exception):
    """Dovecot has said what it may not."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The handshake is done; these are the mechanisms, private ones left out."""

    mechanisms: tuple[Mechanism, ...]
    cookie: bytes = b""


@dataclass(frozen=True, slots=True)
class Continue:
    """The client of this login is to answer."""

    id: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The login is good."""

    id: int
    user: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The login is bad or, with `temporary`, Dovecot cannot say."""

    id: int
    user: bytes = b""
    reason: bytes = b""
    code: bytes = b""
    temporary: bool = False


Event = Ready | Continue | Accepted | Refused


@dataclass(frozen=True, slots=True)
class Question:
    """What Dovecot is told of a login: addresses as text, empty where there is none."""

    mechanism: str
    service: str
    secured: bool
    local: bytes = b""
    local_port: int = 0
    remote: bytes = b""
    remote_port: int = 0
    certificate: str | None = None


def greeting(client: int) -> bytes:
    """Our half of the handshake; `client` must be another number for each connection."""
    return b"VERSION\t%d\t%d\nCPID\t%d\n" % (MAJOR, MINOR, client)


def auth(number: int, question: Question, initial: bytes | None) -> bytes:
    """AUTH; `number` must be another one for each login of a connection."""
    words = [b"AUTH", b"%d" % number, question.mechanism.encode("ascii")]
    words.append(b"service=" + escape(question.service.encode()))
    words.append(b"nologin")
    if question.secured:
        words.append(b"secured")
    if question.certificate is not None:
        words.append(b"valid-client-cert")
        words.append(b"cert_username=" + escape(question.certificate.encode()))
    words += _place(b"l", question.local, question.local_port)
    words += _place(b"r", question.remote, question.remote_port)
    if initial is not None:
        # Always the last word; an empty response is not the same as none.
        words.append(b"resp=" + (base64.b64encode(initial) or b"="))
    return b"\t".join(words) + b"\n"


def _place(side: bytes, address: bytes, port: int) -> Iterator[bytes]:
    if address:
        yield side + b"ip=" + escape(address)
    if address and port:
        yield b"%bport=%d" % (side, port)


def cont(number: int, response: bytes) -> bytes:
    """CONT: what the client answers."""
    return b"CONT\t%d\t%b\n" % (number, base64.b64encode(response))


def cancel(number: int) -> bytes:
    """CANCEL: the client has given up."""
    return b"CANCEL\t%d\n" % number


def escape(octets: bytes) -> bytes:
    """A value without tabs, line ends and NULs."""
    return re.sub(rb"[\x01\t\r\n\0]", lambda match: _ESCAPES[match[0]], octets)


def unescape(octets: bytes) -> bytes:
    """What an escaped value stands for; a stray escape stays."""
    return re.sub(rb"\x01[1trn0]", lambda match: _PLAIN[match[0]], octets)


class Decoder:
    """Dovecot's side of a connection: octets in, events out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._mechanisms: list[Mechanism] = []
        self._cookie = b""
        self._version = self._done = self._any = False

    @property
    def ready(self) -> bool:
        """Whether the handshake is done."""
        return self._done

    def feed(self, octets: bytes) -> Iterator[Event]:
        """The events in these octets.  Raises ProtocolError; nothing is to be fed then."""
        self._buffer += octets
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if len(line) > LONGEST_LINE:
                break
            event = self._line(line)
            if event is not None:
                yield event
        else:
            if len(self._buffer) <= LONGEST_LINE:
                return
        raise ProtocolError("a line without end")

    def _line(self, line: bytes) -> Event | None:
        command, *words = line.split(b"\t")
        if not self._done:
            return self._handshake(command, words)
        if command in (b"OK", b"CONT", b"FAIL"):
            return _answer(command, words)
        return None  # newer versions may say more

    def _handshake(self, command: bytes, words: Sequence[bytes]) -> Event | None:
        match command:
            case b"VERSION":
                if not words or words[0] != b"%d" % MAJOR:
                    raise ProtocolError("another version of the protocol")
                self._version = True
            case b"MECH":
                self._mechanism(words)
            case b"COOKIE":
                self._cookie = words[0] if words else b""
            case b"SPID" if not self._any:
                raise ProtocolError(
                    "no mechanisms: this is auth-master's socket, not auth-client's"
                )
            case b"DONE":
                if not self._version:
                    raise ProtocolError("no version")
                self._done = True
                return Ready(tuple(self._mechanisms), self._cookie)
            case _:
                pass  # CUID, and what newer versions say
        return None

    def _mechanism(self, words: Sequence[bytes]) -> None:
        self._any = True
        if not words or _NAME.match(words[0]) is None:
            raise ProtocolError("a mechanism without a usable name")
        if len(self._mechanisms) >= MOST_MECHANISMS:
            raise ProtocolError("too many mechanisms")
        properties = frozenset(each.decode("ascii", "replace").lower() for each in words[1:])
        if "private" not in properties:
            self._mechanisms.append(Mechanism(words[0].decode("ascii").upper(), properties))


def _answer(command: bytes, words: Sequence[bytes]) -> Event:
    if not words or _NUMBER.match(words[0]) is None:
        raise ProtocolError("an answer to nothing")
    number = int(words[0])
    if command == b"CONT":
        try:
            return Continue(
                number, base64.b64decode(words[1] if len(words) > 1 else b"", validate=True)
            )
        except binascii.Error as error:
            raise ProtocolError("a challenge that is no base64") from error
    values = dict(_values(words[1:]))
    user = values.get(b"user", b"")
    if command == b"OK":
        return Accepted(number, user)
    code = values.get(b"code", b"")
    temporary = b"temp" in values or code == b"temp_fail"
    return Refused(number, user, values.get(b"reason", b""), code, temporary)


def _values(words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for each in words:
        key, _, value = each.partition(b"=")
        yield key, unescape(value)
