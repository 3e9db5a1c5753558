"""socketmap: tables, socketmap_table(5): Sendmail's protocol of netstrings.

`inet:host:port:name` or `unix:path:name`; the request is "name key", the reply begins with
OK, NOTFOUND, TEMP, TIMEOUT or PERM.  A reply that is none of these, or longer than 100,000
octets, is no answer.
"""

from __future__ import annotations

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
        reply = await stream.ask(netstring(prefix + key), measure)
        return answer(reply[reply.index(b":") + 1 : -1], spec)

    limits = Limits(
        context.connect_limit, context.query_limit, idle=10, retry=10, size=context.connections
    )
    return Asking(spec, server, context, question, limits, LONGEST + _DIGITS + 2)


def netstring(octets: bytes) -> bytes:
    """https://cr.yp.to/proto/netstrings.txt"""
    return b"%d:%s," % (len(octets), octets)


def measure(octets: bytes) -> int:
    """The length of the netstring that begins here, 0: more has to come.  Raises Lost."""
    digits, colon, _ = octets[: _DIGITS + 1].partition(b":")
    if not colon and len(digits) <= _DIGITS and (not digits or digits.isdigit()):
        return 0
    if not colon or not digits.isdigit() or int(digits) > LONGEST:
        raise Lost(f"{octets[:20]!r} where the length of a reply should be")
    end = len(digits) + 1 + int(digits)
    if octets[end : end + 1] not in (b"", b","):
        raise Lost("a netstring without its comma")
    return end + 1 if len(octets) > end else 0


def answer(reply: bytes, where: str) -> Found | None:
    """What a reply means.  Raises Refused, and Lost for what is no reply."""
    status, blank, text = reply.partition(b" ")
    if status == b"OK" and blank:
        return Found(text.partition(b"\0")[0], where)
    if status == b"NOTFOUND":
        return None
    said = text.strip()[:200].decode("utf-8", "replace")
    if status in (b"TEMP", b"TIMEOUT", b"PERM"):
        raise Refused(f"{status.decode()} {said}".strip())
    raise Lost(f"a reply that begins with {reply[:40]!r}")
