"""The tables of one list such as header_checks: read at start, all that is wrong at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from milterd.filters.header_checks import actions
from milterd.filters.header_checks.problems import TableError
from milterd.patterns.dialects import PCRE, REGEXP
from milterd.patterns.lines import BLANK, Lines
from milterd.patterns.matching import Subject
from milterd.patterns.rulefile import RuleFile

_DIALECTS = {"regexp": REGEXP, "pcre": PCRE}


class _Report:
    """Collects what is wrong, by file and line."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def skip(self, line: int, found: str, expected: str = "") -> None:
        what = f"found {found}" + (f", expected {expected}" if expected else "")
        self.problems.append(f"{self.file}:{line}: {what}")

    def note(self, line: int, found: str, expected: str = "") -> None:
        """An odd line means to Postfix what it means to us: nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What a table says of a line, and where it says so."""

    place: str
    action: actions.Action


class Checks:
    """The tables of one list, asked in turn.  Raises :class:`TableError`."""

    def __init__(self, specs: Iterable[str]) -> None:
        self._tables: list[tuple[str, RuleFile]] = []
        self.words: set[str] = set()
        """Every action they may say; "?" for one that a pattern will find."""
        problems: list[str] = []
        for spec in specs:
            try:
                self._tables.append(self._read(spec))
            except TableError as error:
                problems += error.problems
        if problems:
            raise TableError(problems)

    def __bool__(self) -> bool:
        return bool(self._tables)

    @property
    def edits(self) -> bool:
        """Whether they may change a line."""
        return not (actions.EDITING | {"?"}).isdisjoint(self.words)

    def find(self, subject: Subject) -> Hit | None:
        """What the first table that knows the line says of it.  Raises TimeoutError."""
        for place, table in self._tables:
            found = table.find(subject)
            if found is not None:
                return Hit(f"{place}:{found[0]}", actions.parse(found[1]))
        return None

    def _read(self, spec: str) -> tuple[str, RuleFile]:
        kind, colon, name = spec.partition(":")
        if not colon or kind not in _DIALECTS:
            raise TableError([f"found {spec!r}, expected regexp:/file or pcre:/file"])
        try:
            content = Path(name).read_bytes()
        except OSError as error:
            raise TableError([f"{spec} cannot be read ({error.strerror})"]) from None
        report = _Report(spec)
        table = RuleFile(_logical(content, report), report, _DIALECTS[kind])
        for line, parts in table.results():
            self._learn(line, parts, report)
        if report.problems:
            raise TableError(report.problems)
        return name, table

    def _learn(self, line: int, parts: Sequence[bytes | int], report: _Report) -> None:
        """Check a result as far as it is known before a pattern has found anything."""
        known = b"".join(each if isinstance(each, bytes) else b"$" for each in parts)
        action = actions.parse(known)
        if isinstance(next(iter(parts), b""), int) or "$" in action.word:
            self.words.add("?")
            return
        certain = all(isinstance(each, bytes) for each in parts)
        expected = actions.wrong(action, certain=certain)
        if expected:
            report.skip(line, repr(known.decode("utf-8", "replace")), expected)
        self.words.add(action.word)


def _logical(content: bytes, report: _Report) -> Iterator[tuple[int, bytes]]:
    lines = Lines(content)
    while (taken := lines.take()) is not None:
        number, text = taken
        if text[0] in BLANK:
            report.skip(number, repr(text[:30]), "no white space before the first line")
        else:
            yield number, text.partition(b"\0")[0]
