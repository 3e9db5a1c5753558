"""The `domain` setting: for which domains a database is asked at all (string_list(3)).

Members are domains, `/file/name` with more members, and `type:table`; `!` before one says
"not".  The first that matches decides; none: the domain is not in the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smtpgw.tables import spec
from smtpgw.tables.cf import Cf, logical_lines
from smtpgw.tables.context import Context
from smtpgw.tables.table import Table

_DEEPEST = 20
"""Files within files: more of them are a circle."""


@dataclass(frozen=True, slots=True)
class _Member:
    wanted: bool
    name: bytes = b""
    table: Table | None = None


class Domains:
    """The list; an empty one allows every key."""

    def __init__(self, members: tuple[_Member, ...]) -> None:
        self._members = members

    async def allows(self, key: bytes) -> bool:
        """Whether the key is an address in one of the domains.  Raises Unavailable."""
        if not self._members:
            return True
        user, _, domain = key.rpartition(b"@")
        if not user:
            return False
        for each in self._members:
            if await _matches(each, domain.lower()):
                return each.wanted
        return False

    async def close(self) -> None:
        """Close the tables."""
        for each in self._members:
            if each.table is not None:
                await each.table.close()


async def _matches(member: _Member, domain: bytes) -> bool:
    if member.table is not None:
        return await member.table.find(domain) is not None
    return member.name == domain


def _members(text: str, cf: Cf, context: Context, deep: int = 0) -> Iterator[_Member]:
    if deep > _DEEPEST:
        raise cf.error("files that name each other", "a list of domains", cf.line("domain"))
    for each in spec.split(text):
        bare = each.lstrip("!")
        wanted = (len(each) - len(bare)) % 2 == 0
        if bare.startswith("/"):
            for inner in _members(_content(bare, cf), cf, context, deep + 1):
                yield _Member(inner.wanted == wanted, inner.name, inner.table)
        elif ":" in bare:
            yield _Member(wanted, table=context.open(bare))
        else:
            yield _Member(wanted, spec.octets(bare).lower())


def _content(name: str, cf: Cf) -> str:
    try:
        text = Path(name).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        found = f"{name}: {error.strerror}"
        raise cf.error(found, "a file with domains", cf.line("domain")) from error
    return " ".join(line for _, line in logical_lines(text))


def read(cf: Cf, context: Context) -> Domains:
    """The list of a .cf file."""
    return Domains(tuple(_members(cf.text("domain"), cf, context)))
