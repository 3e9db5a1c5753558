"""A settings file as text and as TOML, and what may be wrong with it.

The models that check its keys are in :mod:`milterd.base.settings`; a command that needs one
key of the file starts faster without them.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_FILE = 4 * 2**20
"""Octets of a settings file; a larger one is a mistake."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a settings file.  `line` is 0 where there is none to show."""

    file: str
    line: int
    key: str
    found: str
    expected: str
    nearest: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{place}: {self.key}: " if self.key else f"{place}: "
        text += f"found {self.found}, expected {self.expected}"
        return f"{text}; did you mean {self.nearest!r}?" if self.nearest else text


class ConfigError(Exception):
    """The settings cannot be used; `problems` holds every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(each) for each in self.problems))


def read(path: Path) -> str:
    """The text of a settings file.

    Raises :class:`ConfigError` for a file that is missing, huge, not UTF-8, or that others
    could write.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            octets = file.read(MAX_FILE + 1)
        folder = path.resolve().parent.stat()
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError([Problem(name, 0, "", found, "a readable file")]) from error
    problems = []
    if status.st_mode & stat.S_IWOTH:
        problems.append(Problem(name, 0, "", "a file that anyone may write", "mode 0644 or less"))
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        found = "a directory that anyone may write"
        problems.append(Problem(name, 0, "", found, "one that only its owner may write"))
    if len(octets) > MAX_FILE:
        problems.append(Problem(name, 0, "", "a huge file", f"at most {MAX_FILE} octets"))
    try:
        text = octets.decode()
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        problems.append(Problem(name, line, "", "octets that are not UTF-8", "UTF-8 text"))
    if problems:
        raise ConfigError(problems)
    return text


def tables(text: str, *, file: str = "settings") -> dict[str, Any]:
    """What the text of a settings file says.  Raises :class:`ConfigError` for what is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(file, str(error))]) from error
    except RecursionError as error:
        raise ConfigError([Problem(file, 0, "", "too deep a nesting", "plain tables")]) from error


def _syntax(file: str, message: str) -> Problem:
    place = re.search(r"\(at line (\d+), column \d+\)", message)
    found = message[: place.start()].strip() if place else message
    return Problem(file, int(place[1]) if place else 0, "", f"{found!r}", "TOML (see toml.io)")
