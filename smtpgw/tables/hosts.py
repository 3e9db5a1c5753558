"""The `hosts` setting of SQL databases, and the limits that come with them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from smtpgw.tables.cf import Cf
from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Server

_PORT = re.compile(r"(?P<host>.*):(?P<port>[0-9]{1,5})\Z", re.DOTALL)


def hosts_of(cf: Cf) -> Iterator[tuple[str, str]]:
    """Kind ("unix", "inet", "" where it is not said) and rest of each host."""
    for each in re.split(r"[ ,\t\r\n]+", cf.text("hosts")):
        if each:
            kind, colon, rest = each.partition(":")
            yield (kind, rest) if colon and kind in ("unix", "inet") else ("", each)


def with_port(cf: Cf, rest: str, default: int) -> tuple[str, int]:
    """Host and port.  Raises TableError for a port that is none."""
    match = _PORT.match(rest)
    if match is None:
        return rest.removeprefix("[").removesuffix("]"), default
    if not 0 < int(match["port"]) < 65_536:
        raise cf.error(f"port {match['port']} in hosts", "1 to 65535", cf.line("hosts"))
    return match["host"].removeprefix("[").removesuffix("]"), int(match["port"])


def unix(path: str) -> Server:
    """A server that listens on a UNIX socket."""
    return Server(f"unix:{path}", path, unix=True)


def limits_of(cf: Cf, context: Context) -> Limits:
    """`idle_interval` and `retry_interval` as Postfix 3.9 has them; the rest is ours."""
    return Limits(
        connect=context.connect_limit,
        query=context.query_limit,
        idle=cf.seconds("idle_interval", 60),
        retry=cf.seconds("retry_interval", 60),
        size=context.connections,
    )
