"""tcp: tables, tcp_table(5): "get KEY", and a line with 200, 400 or 500.

`tcp:host:port`.  What is not printable, white space and % are sent as %XX.  A reply has
4,096 octets at most.
"""

from __future__ import annotations

import asyncio
import re

from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Lost, Refused
from smtpgw.tables.streams import Asking, Stream, inet
from smtpgw.tables.table import Found, Table

LONGEST = 4096
"""Octets of a reply with its newline."""
_UNSAFE = re.compile(rb"[^!-$&-~]")
_CODED = re.compile(rb"%(..?)?", re.DOTALL)


def open(name: str, context: Context) -> Table:
    """The table `name`.  Raises TableError."""
    spec = context.spec(name)

    async def question(stream: Stream, key: bytes) -> Found | None:
        await stream.send(b"get " + quoted(key) + b"\n")
        try:
            line = await stream.reader.readuntil(b"\n")
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise Lost(f"no line: {error}") from error
        return answer(line[:-1], spec)

    limits = Limits(context.connect_limit, context.query_limit, size=context.connections)
    return Asking(spec, inet(name, spec), context, question, limits, LONGEST)


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
    """What a reply means.  Raises Refused, and Lost for what is no reply."""
    code, blank, text = line.rstrip(b"\r").partition(b" ")
    if code == b"500":
        return None
    try:
        said = unquoted(text)
    except ValueError as error:
        raise Lost(f"{line[:40]!r}: {error}") from error
    if code == b"200" and blank:
        return Found(said, where)
    if code == b"400":
        raise Refused(f"400 {said[:200].decode('utf-8', 'replace')}")
    raise Lost(f"a reply that begins with {line[:40]!r}")
