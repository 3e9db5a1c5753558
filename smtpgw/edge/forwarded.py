"""XCLIENT and XFORWARD: what another server says of a client (XCLIENT_README, XFORWARD_README).

Pure.  `NAME=value` pairs, values in xtext (RFC 3461 section 4).  What decodes to a control
character is refused, where Postfix writes a question mark for it: no such value is honest.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from milterd.core.mail import Family
from smtpgw.edge.names import UNKNOWN_NAME, NameStatus, PeerName
from smtpgw.edge.road import Answer, Connection, Login

LONGEST = 255
"""Octets of a value."""

UNAVAILABLE, TEMPORARY = b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"

XCLIENT = (
    "NAME", "ADDR", "PROTO", "HELO", "REVERSE_NAME", "PORT", "LOGIN", "DESTADDR", "DESTPORT",
)  # fmt: skip
XFORWARD = ("NAME", "ADDR", "PROTO", "HELO", "SOURCE", "PORT", "IDENT")

NOT_ALLOWED = Answer(550, "5.7.0", "Error: insufficient authorization")
NO_PAIR = Answer(501, "5.5.4", "Error: attribute=value expected")

_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*\Z")
_HEX = re.compile(rb"\+([0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(_LABEL + rb"(?:\." + _LABEL + rb")*\.?\Z")

Values = Mapping[str, bytes]


class AttributeFault(Exception):  # noqa: N818 - what is wrong, and the answer to it
    """An attribute that is not taken."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


def syntax(command: str) -> Answer:
    """For a command without anything."""
    return Answer(501, "5.5.4", f"Syntax: {command} attribute=value...")


def parse(argument: bytes, command: str) -> Values:
    """The attributes of a command by name.  Raises AttributeFault."""
    words = argument.split()
    if not words:
        raise AttributeFault(syntax(command))
    names = XCLIENT if command == "XCLIENT" else XFORWARD
    found: dict[str, bytes] = {}
    for each in words:
        name, value = _pair(each, command, names)
        found[name] = value
    return found


def _pair(word: bytes, command: str, names: tuple[str, ...]) -> tuple[str, bytes]:
    raw, _, text = word.partition(b"=")
    if not raw or not text:
        raise AttributeFault(NO_PAIR)
    shown = raw.decode("ascii", "replace")
    name = shown.upper()
    if name not in names:
        raise AttributeFault(
            Answer(501, "5.5.4", f"Bad {command} attribute name: {_harmless(shown)}")
        )
    value = _HEX.sub(lambda match: bytes([int(match[1], 16)]), text)
    clean = _XTEXT.match(text) and len(value) <= LONGEST and not _CONTROL.search(value)
    if not clean or not _fits(name, value, command):
        said = _harmless(text.decode("ascii", "replace"))
        raise AttributeFault(Answer(501, "5.5.4", f"Bad {name} syntax: {said}"))
    return name, value


def _fits(name: str, value: bytes, command: str) -> bool:
    client = command == "XCLIENT"
    if value == UNAVAILABLE:
        return not (client and name == "PROTO")
    if value == TEMPORARY:
        return client and name in ("NAME", "REVERSE_NAME")
    if name == "PROTO" and not client:
        return True
    check = _CHECKS.get(name)
    return check is None or check(value)


def _is_host(value: bytes) -> bool:
    numeric = not value.strip(b"0123456789.")
    return len(value) <= 253 and _HOST.match(value) is not None and not numeric


def _is_address(value: bytes) -> bool:
    return address_of(value) is not None


def _is_port(value: bytes) -> bool:
    return value.isdigit() and len(value) <= 5 and int(value) <= 65535


_CHECKS: Mapping[str, Callable[[bytes], bool]] = {
    "NAME": _is_host,
    "REVERSE_NAME": _is_host,
    "ADDR": _is_address,
    "DESTADDR": _is_address,
    "PORT": _is_port,
    "DESTPORT": _is_port,
    "PROTO": lambda value: value.upper() in (b"SMTP", b"ESMTP"),
    "SOURCE": lambda value: value.upper() in (b"LOCAL", b"REMOTE"),
}


def address_of(value: bytes) -> bytes | None:
    """An address as XCLIENT has it, IPv6 with `IPV6:` before it (RFC 5321 section 4.1.3)."""
    text = value.decode("ascii", "replace")
    try:
        if text[:5].upper() == "IPV6:":
            found = ipaddress.IPv6Address(text[5:])
            return str(found.ipv4_mapped or found).encode("ascii") if "%" not in text else None
        return str(ipaddress.IPv4Address(text)).encode("ascii")
    except ValueError:
        return None


def _harmless(text: str) -> str:
    return "".join(each if " " <= each <= "~" else "?" for each in text)[:100]


@dataclass(frozen=True, slots=True)
class Claim:
    """What XCLIENT has made of a client so far."""

    connection: Connection
    helo: bytes = b""
    esmtp: bool = True
    login: Login | None = None
    given: frozenset[str] = field(default=frozenset())

    def changed(self, values: Values) -> Claim:
        """The same with what another XCLIENT says; what it does not name stays."""
        claim = replace(self, given=self.given | frozenset(values))
        for name, value in values.items():
            gone = value in (UNAVAILABLE, TEMPORARY)
            match name:
                case "HELO":
                    claim = replace(claim, helo=b"" if gone else value)
                case "PROTO":
                    claim = replace(claim, esmtp=gone or value.upper() == b"ESMTP")
                case "LOGIN":
                    claim = replace(claim, login=None if gone else Login(value, "XCLIENT"))
                case _:
                    connection = _told(claim.connection, name, b"" if gone else value)
                    status = NameStatus.TEMP if value == TEMPORARY else NameStatus.PERM
                    claim = replace(claim, connection=_named(connection, name, value, status))
        return claim


def _told(connection: Connection, name: str, value: bytes) -> Connection:
    client = connection.client
    match name:
        case "ADDR":
            address = (address_of(value) or b"") if value else b""
            family = Family.UNKNOWN
            if address:
                family = Family.INET6 if b":" in address else Family.INET
            return replace(connection, client=replace(client, address=address, family=family))
        case "PORT":
            return replace(connection, client=replace(client, port=int(value or 0)))
        case "DESTADDR":
            return replace(connection, local_address=(address_of(value) or b"") if value else b"")
        case "DESTPORT":
            return replace(connection, local_port=int(value or 0))
        case _:
            return connection


def _named(connection: Connection, name: str, value: bytes, status: NameStatus) -> Connection:
    """The names of the client, with what they are worth: nobody looks them up again."""
    peer = connection.peer or PeerName(connection.client.name, reason="told by XCLIENT")
    known = value not in (UNAVAILABLE, TEMPORARY)
    shown = value if known else UNKNOWN_NAME
    worth = NameStatus.OK if known else status
    if name == "NAME":
        peer = replace(peer, name=shown, status=worth)
        if peer.reverse_status is not NameStatus.OK or peer.reverse == UNKNOWN_NAME:
            peer = replace(peer, reverse=shown, reverse_status=worth)
        connection = replace(connection, client=replace(connection.client, name=shown))
    elif name == "REVERSE_NAME":
        peer = replace(peer, reverse=shown, reverse_status=worth)
    return replace(connection, peer=peer)
