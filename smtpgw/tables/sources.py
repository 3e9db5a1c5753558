"""Text sources: logical lines as Postfix reads them, and files that are read again when changed.

A line that begins with white space continues the one before, `#` and blank lines count for
nothing, wherever they stand (readllines(3)).  A file is looked at once a second at most, and
only while it is asked; a new one that cannot be used leaves the old content in force.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from milterd.patterns.lines import BLANK, Lines
from smtpgw.tables import spec as specs
from smtpgw.tables.context import Context
from smtpgw.tables.table import Changes, TableError

T = TypeVar("T")
MAX_REPORTS = 20
"""Lines of one file that the log names; of the others it gives the number."""
IN_PASSING = 1 << 20
"""Octets of a changed file that are read at once; what is larger is read beside the mail."""


class Report:
    """What is wrong in a source: each line is skipped and named, or ends the reading."""

    def __init__(self, spec: str, file: str, context: Context) -> None:
        self.spec, self.file, self.context = spec, file, context
        self._count = 0

    def skip(self, line: int, found: str, expected: str = "") -> None:
        """A line that cannot be used.  Raises TableError unless bad lines are skipped."""
        if not self.context.skip_bad_lines:
            raise TableError(self.spec, self.file, line, found, expected)
        self._log("line of a table skipped", line, found, expected)

    def note(self, line: int, found: str, expected: str = "") -> None:
        """A line that counts, but hardly means what it says."""
        self._log("odd line in a table", line, found, expected)

    def done(self) -> None:
        """Say how many were not named."""
        if self._count > MAX_REPORTS:
            more = self._count - MAX_REPORTS
            self.context.log.warning("more such lines in a table", table=self.spec, lines=more)

    def _log(self, event: str, line: int, found: str, expected: str) -> None:
        self._count += 1
        if self._count <= MAX_REPORTS:
            where = f"{self.file}:{line}"
            self.context.log.warning(
                event, table=self.spec, line=where, found=found, expected=expected
            )


def logical_lines(content: bytes, report: Report) -> Iterator[tuple[int, bytes]]:
    """Every logical line that is one, with the number of its first line, cut at a NUL as a C
    string is."""
    lines = Lines(content)
    while (taken := lines.take()) is not None:
        checked = check_line(*taken, report)
        if checked is not None:
            yield taken[0], checked


def check_line(number: int, text: bytes, report: Report) -> bytes | None:
    """The line as Postfix sees it, None if it is none."""
    if text[0] in BLANK:
        report.skip(number, repr(text[:30]), "no white space before the first line")
        return None
    if not report.context.folding.allows(text):
        report.skip(number, repr(text[:100]), "UTF-8")
        return None
    return text.partition(b"\0")[0]


def inline_rules(name: str, spec: str) -> bytes:
    """The lines of `type:{ {rule}, {rule} }`.  Raises TableError."""
    try:
        rules = [specs.inside(each) for each in specs.split(specs.inside(name))]
    except ValueError as error:
        raise TableError(spec, found=str(error), expected="{ {rule}, {rule}... }") from error
    return b"".join(specs.octets(each) + b"\n" for each in rules)


class Source(Generic[T]):
    """What `load` makes of a file, made again when the file has changed.

    `load(content, report)` raises TableError; opening raises it too, and when there is no such
    file.  Later nothing is raised: the old content stays, and stale() says why.
    """

    def __init__(
        self, file: Path, spec: str, context: Context, load: Callable[[bytes, Report], T]
    ) -> None:
        self.file, self._spec, self._context, self._load = file, spec, context, load
        self._missing = self._broken = ""
        self._settled = False
        self._version = 0
        self._reader: threading.Thread | None = None
        self._next = context.clock() + context.check_files
        try:
            self._stamp, content = self._read()
        except OSError as error:
            raise TableError(spec, str(file), found=error.strerror or str(error)) from error
        self._digest = hashlib.blake2b(content).digest()
        self._value = self._made(content)

    @property
    def place(self) -> str:
        """What stands before a line number."""
        return str(self.file)

    def get(self) -> T:
        """The content, of a second ago at most."""
        now = self._context.clock()
        if now >= self._next:
            self._next = now + self._context.check_files
            self._check()
        return self._value

    def version(self) -> int:
        """How often there was another content, as of a second ago at most."""
        self.get()
        return self._version

    def changes(self) -> tuple[Changes, ...]:
        """What to look at to know that the content is the same."""
        return (self.version,)

    def stale(self) -> str:
        """Why the content is older than the file; empty if it is not."""
        return self._missing or self._broken

    def _check(self) -> None:
        if self._reader is not None and self._reader.is_alive():
            return
        try:
            status = self.file.stat()
        except OSError as error:
            self._missing = self._kept(self._missing, error.strerror or str(error))
            return
        self._missing = ""
        same = _stamp(status) == self._stamp
        if same and self._settled:
            return
        # A file that changes twice within a tick of the clock has one stamp for both: what has
        # the stamp it had is read once more.
        self._settled = same
        if status.st_size > IN_PASSING:
            self._reader = threading.Thread(target=self._renew, daemon=True)
            self._reader.start()
        else:
            self._renew()

    def _renew(self) -> None:
        try:
            stamp, content = self._read()
        except OSError as error:
            self._missing = self._kept(self._missing, error.strerror or str(error))
            return
        digest = hashlib.blake2b(content).digest()
        if digest != self._digest:
            self._replace(content)
        # What cannot be used is not read again either until it changes.
        self._stamp, self._digest = stamp, digest

    def _replace(self, content: bytes) -> None:
        try:
            self._value = self._made(content)
        except TableError as error:
            self._broken = self._kept(self._broken, str(error))
        else:
            self._broken = ""
            self._version += 1  # behind the content, which a thread may have changed
            self._context.log.info("table read again", table=self._spec, file=str(self.file))

    def _kept(self, before: str, why: str) -> str:
        if why != before:
            self._context.log.warning(
                "table keeps its old content", table=self._spec, file=str(self.file), reason=why
            )
        return why

    def _read(self) -> tuple[tuple[int, ...], bytes]:
        """Raises OSError.  The stamp is the one of before, so that a file which is written
        meanwhile is read again at the next look."""
        with self.file.open("rb") as opened:
            stamp = _stamp(os.fstat(opened.fileno()))
            return stamp, opened.read()

    def _made(self, content: bytes) -> T:
        """Raises TableError."""
        report = Report(self._spec, str(self.file), self._context)
        value = self._load(content, report)
        report.done()
        return value


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_size, status.st_ino


class Fixed(Generic[T]):
    """The same for rules that are written in the table's name: they never change."""

    def __init__(
        self, name: str, spec: str, context: Context, load: Callable[[bytes, Report], T]
    ) -> None:
        self.place = spec
        report = Report(spec, spec, context)
        self._value = load(inline_rules(name, spec), report)
        report.done()

    def get(self) -> T:
        """The content."""
        return self._value

    def changes(self) -> tuple[Changes, ...]:
        """Nothing."""
        return ()

    def stale(self) -> str:
        """Never."""
        return ""


def rules(name: str, context: Context, load: Callable[[bytes, Report], T]) -> Source[T] | Fixed[T]:
    """The rules of a table of patterns, from a file or from its name.  Raises TableError."""
    spec = context.spec(name)
    if name.startswith("{"):
        return Fixed(name, spec, context, load)
    return Source(context.path(name), spec, context, load)
