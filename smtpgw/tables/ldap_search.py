"""A search in an LDAP directory and those that follow from it; all of this runs in a thread.

Attributes are of four kinds (ldap_table(5)): values of regular ones count; special ones
hold DNs or LDAP URLs that are searched in their turn; an entry with a terminal one counts
with that alone; a leaf one counts only in an entry without special ones.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from smtpgw.tables.servers import Lost, Refused

_NO_SUCH_OBJECT = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """The attributes, by what they mean."""

    terminal: tuple[str, ...]
    leaf: tuple[str, ...]
    regular: tuple[str, ...]
    special: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """In the order in which they are looked for."""
        return self.terminal + self.leaf + self.regular + self.special

    def kind(self, name: str) -> str:
        """What an attribute of an entry is: the first of the lists above that has it."""
        for kind in ("terminal", "leaf", "regular", "special"):
            if _any_of(getattr(self, kind), [name]):
                return kind
        return ""


@dataclass(frozen=True, slots=True)
class Search:
    """How to search.  `scope`: sub, one or base; `time_limit`: seconds; limits of 0 are none."""

    scope: str
    wanted: Wanted
    dereference: int
    size_limit: int
    recursion_limit: int
    time_limit: float
    clock: Callable[[], float]


def lost(error: Exception) -> str:
    """What a failure of the library's says."""
    return f"{type(error).__name__}: {error}"


class LdapConnection:
    """One connection; `run` calls a function in a thread."""

    def __init__(self, connection: Any, run: Callable[..., Awaitable[Any]]) -> None:
        self._connection, self._run = connection, run

    def open(self, start_tls: bool, bind: bool) -> None:
        """Connect, STARTTLS, bind.  Raises Lost."""
        try:
            self._connection.open(read_server_info=False)
            secure = not start_tls or self._connection.start_tls(read_server_info=False)
            bound = secure and (not bind or self._connection.bind(read_server_info=False))
        except Exception as error:
            raise Lost(lost(error)) from error
        if not bound:
            step = "bind" if secure else "STARTTLS"
            raise Lost(f"{step}: {(self._connection.result or {}).get('description')}")

    def search(self, search: Search, base: str, query: str, fixed: bool) -> list[bytes]:
        """Every value.  A base that is not there is an error if it is `fixed`.  Raises Lost,
        Refused."""
        try:
            return _Asking(self._connection, search).values(base, query, fixed)
        except (Lost, Refused):
            raise
        except Exception as error:
            raise Lost(lost(error)) from error

    def drop(self) -> None:
        """A thread that reads from it is woken by this."""
        own = self._connection.socket
        if isinstance(own, socket.socket):
            try:
                own.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
            finally:
                own.close()

    async def close(self) -> None:
        try:
            await self._run(self._connection.unbind)
        except Exception as error:
            raise Lost(lost(error)) from error


_Entry = Mapping[str, list[bytes]]


@dataclass(frozen=True, slots=True)
class _Door:
    """The value of a special attribute: what is behind it counts."""

    value: bytes


class _Asking:
    """One question, with all that follows from it."""

    def __init__(self, connection: Any, search: Search) -> None:
        self._connection, self._search = connection, search
        self._deadline = search.clock() + search.time_limit

    def values(self, base: str, query: str, fixed: bool) -> list[bytes]:
        entries = self._entries(base, query, self._search.scope, self._search.wanted.all)
        if entries is None and fixed:
            raise Refused(f"search base {base!r} not found")
        found, doors = [], [self._of(entries or [])]
        while doors:
            each = next(doors[-1], None)
            if each is None:
                doors.pop()
            elif isinstance(each, bytes):
                found.append(each)
            elif len(doors) >= self._search.recursion_limit:
                raise Refused(f"more than {len(doors)} levels (recursion_limit)")
            else:
                doors.append(self._of(self._follow(each.value)))
        return found

    def _entries(
        self, base: str, query: str, scope: str, attributes: Sequence[str]
    ) -> list[_Entry] | None:
        """Attributes of each entry; None: there is no such base."""
        import ldap3

        if self._search.clock() >= self._deadline:
            raise Lost(f"no answer within {self._search.time_limit:g} s")
        scopes = {"sub": ldap3.SUBTREE, "one": ldap3.LEVEL, "base": ldap3.BASE}
        aliases = (
            ldap3.DEREF_NEVER, ldap3.DEREF_SEARCH, ldap3.DEREF_BASE, ldap3.DEREF_ALWAYS,
        )  # fmt: skip
        self._connection.search(
            base, query, scopes[scope], aliases[self._search.dereference], list(attributes),
            self._search.size_limit, max(1, round(self._search.time_limit)),
        )  # fmt: skip
        result, response = self._connection.result, self._connection.response
        if result["result"] == _NO_SUCH_OBJECT:
            return None
        if result["result"]:
            raise Refused(f"{result['description']} {result.get('message') or ''}".strip())
        found = [each["raw_attributes"] for each in response if each["type"] == "searchResEntry"]
        if 0 < self._search.size_limit < len(found):
            raise Refused(f"more than {self._search.size_limit} entries (size_limit)")
        return found

    def _of(self, entries: Sequence[_Entry]) -> Iterator[bytes | _Door]:
        """What the entries hold, in their order."""
        wanted = self._search.wanted
        for entry in entries:
            present = [name for name, values in entry.items() if values]
            terminal = _any_of(wanted.terminal, present)
            inner = not terminal and _any_of(wanted.special, present)
            counts = {"terminal": True, "regular": not terminal, "leaf": not (terminal or inner)}
            for name in present:
                kind = wanted.kind(name)
                if counts.get(kind, False):
                    yield from entry[name]
                elif kind == "special" and not terminal:
                    yield from map(_Door, entry[name])

    def _follow(self, value: bytes) -> Sequence[_Entry]:
        """The entries of a DN or a URL; none if there is no such DN."""
        text = value.decode("utf-8", "replace")
        if text.lower().startswith(("ldap://", "ldaps://", "ldapi://")):
            return self._url(text) or []
        every = self._search.wanted.all
        return self._entries(text, "(objectclass=*)", "base", every) or []

    def _url(self, url: str) -> list[_Entry] | None:
        """The entries of `ldap://host/base?attributes?scope?filter` (RFC 4516), of this server."""
        _, slash, rest = url.partition("://")[2].partition("/")
        base, names, scope, query, *_ = (unquote(each) for each in (rest + "????").split("?"))
        if not slash or (scope or "base").lower() not in ("sub", "one", "base"):
            raise Refused(f"malformed URL {url!r}")
        attributes = _both(names.split(","), self._search.wanted.all) if names else None
        if attributes is not None and not attributes:
            return []
        return self._entries(
            base,
            query or "(objectclass=*)",
            (scope or "base").lower(),
            self._search.wanted.all if attributes is None else attributes,
        )


def _subtype(asked: str, given: str) -> bool:
    """Whether `given` is the attribute `asked`, or that with options: mail;lang-de."""
    asked, given = asked.lower(), given.lower()
    return given == asked or given.startswith(f"{asked};")


def _any_of(asked: Sequence[str], given: Sequence[str]) -> bool:
    return any(_subtype(each, name) for each in asked for name in given)


def _both(url: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The attributes that a URL and the table name, the more specific of the two."""
    found = [mine for mine in wanted for name in url if _subtype(name, mine)]
    return found + [
        name for name in url for mine in wanted if _subtype(mine, name) and name not in found
    ]
