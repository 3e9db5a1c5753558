"""tcp: tables, tcp_table(5): "get KEY", and a line with 200, 400 or 500.

`tcp:host:port`.  What is not printable, white space and % are sent as %XX.  A reply has
4,096 octets at most.
"""

from __future__ import annotations

import re

from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Lost, Refused
from smtpgw.tables.streams import Asking, Stream, inet
from smtpgw.tables.table import Found, Table

LONGEST = 4096
"""Octets of a reply with its newline."""
_UNSAFE = re.compile(rb"[^!-$&-~]")
_REPLY = re.compile(rb"([245])[0-9]{2}[ \t\r\v\f](.*)", re.DOTALL)
_CODED = re.compile(rb"%(..?)?", re.DOTALL)


def open(name: str, context: Context) -> Table:
    """The table `name`.  Raises TableError."""
    spec = context.spec(name)

    async def question(stream: Stream, key: bytes) -> Found | None:
        reply = await stream.ask(b"get " + quoted(key) + b"\n", measure)
        return answer(reply[:-1], spec)

    limits = Limits(context.connect_limit, context.query_limit, size=context.connections)
    return Asking(spec, inet(name, spec), context, question, limits, LONGEST)


def measure(octets: bytes) -> int:
    """The length of the line that begins here, 0: more has to come."""
    return octets.find(b"\n") + 1


def quoted(octets: bytes) -> bytes:
    """With %XX."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], octets)


def unquoted(octets: bytes) -> bytes:
    """Raises ValueError for a % without two hexadecimal digits."""

    def octet(match: re.Match[bytes]) -> bytes:
        code = match[1] or b""
        if not re.fullmatch(rb"[0-9A-Fa-f]{2}", code):
            raise ValueError("% without two hexadecimal digits")
        return bytes([int(code, 16)])

    return _CODED.sub(octet, octets)


def answer(line: bytes, where: str) -> Found | None:
    """What a reply means: 2xx, 4xx or 5xx, as Postfix takes them.  Raises Refused, and Lost for
    what is no reply."""
    match = _REPLY.fullmatch(line)
    if match is None:
        raise Lost(f"a reply that begins with {line[:40]!r}")
    try:
        said = unquoted(match[2]).partition(b"\0")[0]
    except ValueError as error:
        raise Lost(f"{line[:40]!r}: {error}") from error
    if match[1] == b"5":
        return None
    if match[1] == b"4":
        raise Refused(f"{line[:3].decode()} {said[:200].decode('utf-8', 'replace')}")
    return Found(said, where)
