"""Postfix's .cf files of database clients, as they are: mysql_table(5) and its kin.

`name = value`; a line that begins with white space goes on with the one before, and empty
lines and comments between them do not end it.  `$` has no meaning.  Everything is read
once, when the table is opened; what is wrong raises TableError with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from milterd.base.near import nearest
from smtpgw.tables.context import Context
from smtpgw.tables.table import TableError

_SPACE = " \t\r\n\v\f"
_SETTING = re.compile(r"(?P<name>[^\s=]*)\s*(?P<equals>=?)\s*(?P<value>.*)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and the line it begins in."""

    value: str
    line: int


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each logical line (readlllines() of Postfix)."""
    start, kept = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.lstrip(_SPACE)
        if not bare or bare.startswith("#"):
            continue
        if line[0] in _SPACE and kept:
            kept += "\n" + line
            continue
        if kept:
            yield start, kept
        start, kept = number, line
    if kept:
        yield start, kept


class Cf:
    """The settings of one file.  `spec` is the table, for errors."""

    def __init__(self, spec: str, path: Path, text: str) -> None:
        self.spec, self.path = spec, path
        self.warnings: list[str] = []
        self._settings: dict[str, Setting] = {}
        self._asked: set[str] = set()
        for number, line in logical_lines(text):
            self._add(number, line)

    def _add(self, number: int, line: str) -> None:
        match = _SETTING.match(line.strip(_SPACE))
        if match is None or not match["name"] or not match["equals"]:
            raise self.error(repr(line.strip(_SPACE)), '"name = value"', number)
        name, value = match["name"], match["value"]
        if name in self._settings:
            before = self._settings[name].line
            self.warnings.append(f"{self.path}:{number}: {name} again: line {before} is ignored")
        self._settings[name] = Setting(value, number)

    def error(self, found: str, expected: str, line: int = 0) -> TableError:
        """What to raise for something in this file."""
        return TableError(self.spec, str(self.path), line, found, expected)

    def line(self, name: str) -> int:
        """Where a setting begins; 0: it is not there."""
        setting = self._settings.get(name)
        return setting.line if setting else 0

    def get(self, name: str) -> str | None:
        """A setting, or None where it is not given."""
        self._asked.add(name)
        setting = self._settings.get(name)
        return setting.value if setting else None

    def rename(self, old: str, new: str) -> None:
        """Take a setting under the name it has today."""
        self._settings[new] = self._settings.pop(old)

    def text(self, name: str, default: str = "", *, empty: bool = True) -> str:
        """A setting; `empty`: whether it may be."""
        value = self.get(name)
        value = default if value is None else value
        if not value and not empty:
            found = f"no {name}" if not self.line(name) else f"an empty {name}"
            raise self.error(found, f"a value for {name}", self.line(name))
        return value

    def number(self, name: str, default: int, least: int = 0) -> int:
        """A whole number, at least `least`."""
        value = self.get(name)
        if value is None:
            return default
        if not _INTEGER.fullmatch(value) or int(value) < least:
            raise self.error(f"{name} = {value}", f"a number from {least} on", self.line(name))
        return int(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """yes or no, in any case."""
        value = self.get(name)
        if value is None:
            return default
        if value.lower() not in ("yes", "no"):
            raise self.error(f"{name} = {value}", "yes or no", self.line(name))
        return value.lower() == "yes"

    def seconds(self, name: str, default: float) -> float:
        """A time as in postconf(5): 60, 60s, 2m, 1h, 1d, 1w."""
        value = self.get(name)
        if value is None:
            return default
        match = re.fullmatch(r"([0-9]{1,9})\s*([smhdw]?)", value)
        if match is None:
            raise self.error(f"{name} = {value}", 'a time as "60s" or "1m"', self.line(name))
        unit = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[match[2]]
        return float(int(match[1]) * unit)

    def unused(self) -> list[str]:
        """A line for each setting that nobody asked for, as postconf(1) says it, with the nearest
        one that there is."""
        said = []
        for name, setting in self._settings.items():
            if name not in self._asked:
                near = nearest(name, sorted(self._asked))
                hint = f" (did you mean {near}?)" if near else ""
                said.append(f"{self.path}:{setting.line}: unused parameter: {name}{hint}")
        return said

    def warn(self, context: Context) -> None:
        """Say in the log what was given and means nothing; called when all has been asked for."""
        for each in [*self.warnings, *self.unused()]:
            context.log.warning("table definition", table=self.spec, warning=each)


def read(name: str, context: Context) -> Cf:
    """The file of a table."""
    path, spec = context.path(name), context.spec(name)
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise TableError(spec, str(path), 0, error.strerror or str(error), "a file") from error
    return Cf(spec, path, octets.decode("utf-8", "surrogateescape"))
