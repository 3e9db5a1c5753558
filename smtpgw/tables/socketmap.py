"""socketmap: tables, socketmap_table(5): Sendmail's protocol of netstrings.

`inet:host:port:name` or `unix:path:name`; the request is "name key", the reply begins with
OK, NOTFOUND, TEMP, TIMEOUT or PERM.  A reply that is none of these, or longer than 100,000
octets, is no answer.
"""

from __future__ import annotations

import asyncio

from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Lost, Refused, Server
from smtpgw.tables.streams import Asking, Stream, inet
from smtpgw.tables.table import Found, Table, TableError

LONGEST = 100_000
"""Octets of a reply."""
_DIGITS = len(str(LONGEST))


def open(name: str, context: Context) -> Table:
    """The table `name`.  Raises TableError."""
    spec = context.spec(name)
    place, colon, asked = name.rpartition(":")
    kind, _, rest = place.partition(":")
    if not colon or not asked or not rest or kind not in ("inet", "unix"):
        raise TableError(spec, found=repr(name), expected="inet:host:port:name or unix:path:name")
    path = str(context.path(rest))
    server = inet(rest, spec) if kind == "inet" else Server(f"unix:{path}", path, unix=True)
    prefix = asked.encode("utf-8", "surrogateescape") + b" "

    async def question(stream: Stream, key: bytes) -> Found | None:
        await stream.send(netstring(prefix + key))
        return answer(await _reply(stream), spec)

    limits = Limits(
        context.connect_limit, context.query_limit, idle=10, retry=10, size=context.connections
    )
    return Asking(spec, server, context, question, limits, 2 * LONGEST)


def netstring(octets: bytes) -> bytes:
    """https://cr.yp.to/proto/netstrings.txt"""
    return b"%d:%s," % (len(octets), octets)


async def _reply(stream: Stream) -> bytes:
    try:
        length = (await stream.reader.readuntil(b":"))[:-1]
        if not length.isdigit() or len(length) > _DIGITS or int(length) > LONGEST:
            raise Lost(f"{length[:20]!r} where the length of a reply should be")
        octets = await stream.reader.readexactly(int(length) + 1)
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        raise Lost(f"no netstring: {error}") from error
    if octets[-1:] != b",":
        raise Lost("a netstring without its comma")
    return octets[:-1]


def answer(reply: bytes, where: str) -> Found | None:
    """What a reply means.  Raises Refused, and Lost for what is no reply."""
    status, blank, text = reply.partition(b" ")
    if status == b"OK" and blank:
        return Found(text, where)
    if status == b"NOTFOUND":
        return None
    said = text.strip()[:200].decode("utf-8", "replace")
    if status in (b"TEMP", b"TIMEOUT", b"PERM"):
        raise Refused(f"{status.decode()} {said}".strip())
    raise Lost(f"a reply that begins with {reply[:40]!r}")
