"""Blank what is private on a tape, and keep every length, so that it can be shown to others.

Kept: the kind of every packet, negotiations, names of header fields and macros, values of
macros that are about no person, codes of replies, the shape of addresses and values
(white space and the punctuation of RFC 5322 addresses), line ends.  Everything else
becomes `x`, an IP address ones.  What is not understood is blanked whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from milterd.core.mail import Family
from milterd.lab.tape_codec import Said
from milterd.lab.wording import decoded
from milterd.wire.constants import Command, Response
from milterd.wire.errors import WireError

_CONTENT = re.compile(rb"[^\r\n]")
_VALUE = re.compile(rb"[^ \t\r\n\0<>@.,:;()\[\]\"]")
_REPLY = re.compile(rb"([245][0-9]{2}[ -]?(?:[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |$))?)([^\n]*)")
_ARGUMENT = re.compile(
    rb"(?:SIZE=[0-9]{1,20}|BODY=(?:7BIT|8BITMIME|BINARYMIME)|SMTPUTF8|REQUIRETLS"
    rb"|RET=(?:FULL|HDRS)|NOTIFY=(?:(?:NEVER|SUCCESS|FAILURE|DELAY),?){1,4})",
    re.IGNORECASE,
)
_KEYWORD = re.compile(rb"(?:AUTH|ENVID|ORCPT|MT-PRIORITY|BY|HOLDFOR|HOLDUNTIL)=", re.IGNORECASE)
_FIELD_NAME = re.compile(rb"[A-Za-z0-9-]{1,64}")
_MACRO_NAME = re.compile(rb"\{[A-Za-z0-9_]{1,40}\}|[A-Za-z_]")
_MACRO_NAMES = re.compile(rb"(?:(?:\{[A-Za-z0-9_]{1,40}\}|[A-Za-z_](?![A-Za-z_]))[ ,]*)*")
_PUBLIC_MACROS = {
    b"v", b"{auth_type}", b"{auth_ssf}", b"{cipher}", b"{cipher_bits}", b"{tls_version}",
    b"{daemon_name}", b"{mail_mailer}", b"{rcpt_mailer}", b"{client_port}",
    b"{client_connections}", b"{nrcpts}", b"{verify}",
}  # fmt: skip


def redact(said: Said) -> bytes:
    """As many octets, of which nothing tells who wrote what to whom."""
    if not said.whole:
        return b"x" * len(said.octets)
    code, payload = said.octets[4], said.octets[5:]
    blank = (_MTA if said.side == "mta" else _MILTER).get(bytes((code,)))
    if blank is None:
        return said.octets[:4] + b"x" * (len(payload) + 1)
    try:
        decoded(said.side, said.octets)  # whether it is in form
        new = blank(payload)
    except WireError:
        new = b"x" * len(payload)
    return said.octets[:5] + new


def _content(payload: bytes) -> bytes:
    return _CONTENT.sub(b"x", payload)


def _value(octets: bytes) -> bytes:
    """One string, or several: their NULs are kept."""
    return _VALUE.sub(b"x", octets)


def _nothing(payload: bytes) -> bytes:
    return b"x" * len(payload)


def _negotiation(payload: bytes) -> bytes:
    """Macro lists are kept where their names can be nothing else."""
    parts, at = [payload[:12]], 12
    while at < len(payload):
        stop = payload.index(b"\0", at + 4)
        names = payload[at + 4 : stop]
        kept = names if _MACRO_NAMES.fullmatch(names) else _value(names)
        parts += (payload[at : at + 4], kept, b"\0")
        at = stop + 1
    return b"".join(parts)


def _connect(payload: bytes) -> bytes:
    """An IP address becomes another one: a milter that cannot read it drops the connection."""
    host, _, rest = payload.partition(b"\0")
    family, port, address = rest[:1], rest[1:3], rest[3:-1]
    if family == Family.UNKNOWN.value:
        return _host(host) + b"\0" + family
    address = _value(address) if family == Family.UNIX.value else _address(address)
    return _host(host) + b"\0" + family + port + address + b"\0"


def _host(name: bytes) -> bytes:
    """A name, or an address literal, which stays one."""
    if name[:1] == b"[" and name[-1:] == b"]":
        return b"[" + _address(name[1:-1]) + b"]"
    return _value(name)


def _address(address: bytes) -> bytes:
    prefix = address[:5] if address[:5].lower() == b"ipv6:" else b""
    return prefix + _VALUE.sub(b"1", address[len(prefix) :])


def _macros(payload: bytes) -> bytes:
    if len(payload) == 1:
        return payload
    flat = payload[1:-1].split(b"\0")
    for at in range(0, len(flat), 2):
        name, value = flat[at], flat[at + 1]
        if not _MACRO_NAME.fullmatch(name):
            flat[at], flat[at + 1] = _value(name), _value(value)
        elif name == b"{client_addr}":
            flat[at + 1] = _address(value)
        elif name not in _PUBLIC_MACROS:
            flat[at + 1] = _value(value)
    return payload[:1] + b"\0".join(flat) + b"\0"


def _envelope(payload: bytes) -> bytes:
    """The address of MAIL or RCPT, and its ESMTP arguments."""
    address, *arguments = payload.split(b"\0")
    return b"\0".join([_value(address), *(_argument(each) for each in arguments)])


def _argument(octets: bytes) -> bytes:
    if _ARGUMENT.fullmatch(octets):
        return octets
    keyword = _KEYWORD.match(octets)
    kept = keyword.end() if keyword else 0
    return octets[:kept] + _value(octets[kept:])


def _header(payload: bytes) -> bytes:
    name, nul, value = payload.partition(b"\0")
    kept = name if _FIELD_NAME.fullmatch(name) else _value(name)
    return kept + nul + _value(value)


def _indexed_header(payload: bytes) -> bytes:
    return payload[:4] + _header(payload[4:])


def _new_address(payload: bytes) -> bytes:
    """An address, and arguments apart by spaces in one string."""
    address, nul, rest = payload.partition(b"\0")
    return _value(address) + nul + b" ".join(_argument(each) for each in rest.split(b" "))


def _reply(payload: bytes) -> bytes:
    """The codes at the beginning of each line are kept."""
    lines = payload.split(b"\n")
    return b"\n".join(_reply_line(each) for each in lines)


def _reply_line(line: bytes) -> bytes:
    match = _REPLY.fullmatch(line)
    return match[1] + _value(match[2]) if match else _value(line)


_MTA: dict[bytes, Callable[[bytes], bytes]] = {
    Command.NEGOTIATE: _negotiation,
    Command.CONNECT: _connect,
    Command.MACRO: _macros,
    Command.HELO: _value,
    Command.MAIL: _envelope,
    Command.RCPT: _envelope,
    Command.HEADER: _header,
    Command.BODY: _content,
    Command.END_OF_MESSAGE: _content,
    Command.UNKNOWN: _value,
    Command.DATA: _nothing,
    Command.END_OF_HEADERS: _nothing,
    Command.ABORT: _nothing,
    Command.QUIT: _nothing,
    Command.QUIT_NEW_CONNECTION: _nothing,
}
_MILTER: dict[bytes, Callable[[bytes], bytes]] = {
    Command.NEGOTIATE: _negotiation,
    Response.ADD_HEADER: _header,
    Response.INSERT_HEADER: _indexed_header,
    Response.CHANGE_HEADER: _indexed_header,
    Response.ADD_RCPT: _value,
    Response.DELETE_RCPT: _value,
    Response.ADD_RCPT_PAR: _new_address,
    Response.CHANGE_FROM: _new_address,
    Response.REPLACE_BODY: _content,
    Response.QUARANTINE: _value,
    Response.REPLY_CODE: _reply,
    **dict.fromkeys(
        (
            Response.CONTINUE, Response.ACCEPT, Response.REJECT, Response.TEMPFAIL,
            Response.DISCARD, Response.SKIP, Response.PROGRESS, Response.CONN_FAIL,
            Response.SHUTDOWN,
        ),
        _nothing,
    ),
}  # fmt: skip
