"""Opens the tables and lists that the settings of [smtpgw] name, each table once.

What cannot be opened is collected, so that a postmaster hears of all of it at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from milterd.base.toml_file import Problem
from smtpgw import parameters
from smtpgw.address.clients import ClientElement, ClientList
from smtpgw.address.find import Maps as SomeMaps
from smtpgw.address.lists import DomainList, Element
from smtpgw.config import Smtpgw
from smtpgw.config.types import check_network
from smtpgw.tables import spec
from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import Changes, Found, Local, Table, TableError

_PLAIN = frozenset({
    "transport_maps", "sender_dependent_relayhost_maps", "alias_maps",
    "sender_dependent_default_transport_maps",
})  # fmt: skip
"""Tables whose results may not have `$1` in them: a stranger would say where mail goes."""
_DEEPEST = 20
"""Files of patterns within files: more of them are a circle."""


class Given(Local):
    """A table whose keys and values stand in the settings, by lower-case key."""

    def __init__(self, name: str, content: Mapping[str, str]) -> None:
        super().__init__(name)
        self._content = {
            key.lower().encode(): Found(value.encode(), f"{name}.{key}")
            for key, value in content.items()
        }

    def find_now(self, key: bytes) -> Found | None:
        """The answer, without waiting."""
        return self._content.get(key.lower())

    def changes(self) -> tuple[Changes, ...]:
        """Nothing: other settings are another table."""
        return ()


class TableRoom:
    """The tables of these settings.  `problems` is what could not be opened."""

    def __init__(self, settings: Smtpgw, log: FilteringBoundLogger) -> None:
        own = settings.tables
        self._values = settings.parameters()
        self._context = Context(
            base=own.directory,
            log=log,
            skip_bad_lines=own.bad_lines == "skip",
            check_files=own.check_files,
            regex_limit=own.regex_limit,
            query_limit=own.query_limit,
            connect_limit=own.connect_limit,
            cache_size=own.cache_size,
            cache_time=own.cache_time,
            cache_missing_time=own.cache_missing_time,
            connections=own.connections,
        )
        self._opened: dict[tuple[str, bool, bool], Table] = {}
        self.problems: list[Problem] = []

    @property
    def tables(self) -> tuple[Table, ...]:
        """All that were opened."""
        return tuple(self._opened.values())

    def text(self, name: str) -> str:
        """A setting with every `$name` replaced; empty if that cannot be done."""
        try:
            return parameters.expand(f"${name}", self._values)
        except parameters.ParameterError as error:
            self._wrong(name, error.found, error.expected, error.nearest)
            return ""

    def maps(self, name: str, *more: Table, aliases: bool = False) -> Maps | None:
        """The tables of a setting, and others behind them; None if there are none."""
        return self.open(name, spec.split(self.text(name)), *more, aliases=aliases)

    def open(
        self, name: str, those: Iterable[str], *more: Table, aliases: bool = False
    ) -> Maps | None:
        """The same for tables that a setting names among other things."""
        opened = [self._table(name, each, aliases) for each in those]
        found = [*(each for each in opened if each is not None), *more]
        return Maps(found) if found else None

    def domains(self, name: str, *, parents: bool = False, below: bool = False) -> DomainList:
        """A list of domains."""
        found: list[Element] = []
        for negated, pattern in self._patterns(name):
            if ":" in pattern:
                maps = self._member(name, pattern)
                if maps is not None:
                    found.append(Element(maps=maps, negated=negated))
            else:
                found += (Element(each, None, negated) for each in _forms(pattern))
        return DomainList(tuple(found), parents, below)

    def clients(self, name: str) -> ClientList:
        """A list of networks."""
        return self.client_list(name, self.text(name))

    def client_list(self, name: str, text: str) -> ClientList:
        """The same, of a setting whose text the caller has."""
        found: list[ClientElement] = []
        for negated, pattern in self._within(name, text, 0):
            try:
                network = ipaddress.ip_network(check_network(pattern))
            except ValueError as error:
                maps = self._member(name, pattern) if pattern[:1].isalpha() else None
                if maps is not None:
                    found.append(ClientElement(maps=maps, negated=negated))
                elif not pattern[:1].isalpha():
                    self._wrong(name, pattern, str(error).removeprefix("expected "))
            else:
                found.append(ClientElement(network, None, negated))
        return ClientList(tuple(found))

    def _member(self, name: str, pattern: str) -> SomeMaps | None:
        table = self._table(name, pattern, False)
        return None if table is None else Maps([table])

    def _patterns(self, name: str) -> Iterator[tuple[bool, str]]:
        """Whether a pattern is a no, and the pattern; those of files in their place."""
        yield from self._within(name, self.text(name), 0)

    def _within(self, name: str, text: str, depth: int) -> Iterator[tuple[bool, str]]:
        for each in spec.split(text):
            bare = each.lstrip("!")
            negated = (len(each) - len(bare)) % 2 == 1
            if not bare.startswith("/"):
                yield negated, bare
                continue
            inner = self._file(name, bare, depth)
            yield from ((negated != no, pattern) for no, pattern in inner)

    def _file(self, name: str, path: str, depth: int) -> Iterable[tuple[bool, str]]:
        if depth >= _DEEPEST:
            self._wrong(name, f"{path}, which names itself", "files with patterns")
            return ()
        try:
            text = Path(path).read_text("utf-8", "surrogateescape")
        except OSError as error:
            self._wrong(name, f"{path}: {error.strerror}", "a file with patterns")
            return ()
        lines = (each for each in text.splitlines() if not each.lstrip().startswith("#"))
        return self._within(name, " ".join(lines), depth + 1)

    def _table(self, name: str, text: str, aliases: bool) -> Table | None:
        plain = name in _PLAIN
        key = text, aliases, plain
        if key not in self._opened:
            context = replace(self._context, aliases=aliases, substitute=not plain)
            try:
                self._opened[key] = open_table(text, context)
            except TableError as error:
                self._wrong(self._writer(name, text), str(error), "a table that can be opened")
                return None
        return self._opened[key]

    def _writer(self, name: str, text: str) -> str:
        """The setting in which a table stands that `name` may have by a `$name`."""
        if text in self._values.get(name, ""):
            return name
        return next((each for each, value in self._values.items() if text in value), name)

    def _wrong(self, name: str, found: str, expected: str, nearest: str = "") -> None:
        problem = Problem("settings", 0, f"smtpgw.{name}", found, expected, nearest)
        if problem not in self.problems:  # a setting may be asked for twice
            self.problems.append(problem)


def _forms(domain: str) -> tuple[bytes, ...]:
    """A domain as it was written and, where it is an international one, in its other form."""
    plain = domain.lower()
    try:
        if plain.isascii():
            other = plain.encode().decode("idna") if "xn--" in plain else plain
        else:
            other = plain.encode("idna").decode()
    except UnicodeError:
        other = plain  # no name that DNS could have
    return tuple(each.encode("utf-8", "surrogateescape") for each in dict.fromkeys((plain, other)))
