"""hash:, btree: - the text source beside which postmap(1) puts its .db file.

The source is read, never the .db: no postmap is needed, and a change counts within a
second.  `hash:/etc/postfix/virtual` reads /etc/postfix/virtual.  Of several lines with one
key the first counts, as with postmap.  For aliases files see Context.aliases.

The file's octets are kept as they are, beside them an index of the keys: a million lines
take some 200 octets each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from milterd.patterns.lines import Lines
from smtpgw.tables import aliases, entries
from smtpgw.tables.context import Context
from smtpgw.tables.sources import Report, Source, check_line
from smtpgw.tables.table import Changes, Found, Local, Unavailable

_GOES_ON = b" \t\r\n\v\f#"
_OFFSET_BITS = 40
_OFFSET = (1 << _OFFSET_BITS) - 1


class Index:
    """Keys and where their lines are.

    `_places` has `line number << 40 | offset` of a line that is plainly key and value;
    `_others` the value and line number of every other.
    """

    __slots__ = ("_content", "_others", "_places")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._places: dict[bytes, int] = {}
        self._others: dict[bytes, tuple[bytes, int]] = {}

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        """The value and its line number."""
        place = self._places.get(key)
        if place is None:
            return self._others.get(key)
        start = place & _OFFSET
        end = self._content.find(b"\n", start)
        line = self._content[start : end if end >= 0 else None]
        return line.split(None, 1)[1].rstrip(), place >> _OFFSET_BITS

    def __iter__(self) -> Iterator[bytes]:
        """Every key, as it is folded."""
        yield from self._places
        yield from self._others

    def read(self, report: Report) -> None:
        """Read the content as postmap(1) does.  Raises TableError."""
        content, places, lines = self._content, self._places, Lines(self._content)
        fold = report.context.folding.fixed
        plain, size = content.isascii() and b"\0" not in content, len(content)
        while lines.offset < size:
            start = lines.offset
            end = content.find(b"\n", start)
            # A line is plain if neither it nor the next one has anything to be careful about.
            if plain and content[start] not in _GOES_ON and 0 <= end < size - 1:
                parts = content[start:end].split(None, 1)
                if content[end + 1] not in _GOES_ON and len(parts) == 2:
                    key = parts[0]
                    if b'"' not in key and b"\\" not in key and key[-1] != 0x3A:
                        key, place = key.lower(), lines.number << _OFFSET_BITS | start
                        if key in self._others or places.setdefault(key, place) != place:
                            report.note(lines.number, f"a second entry for {key!r}", "one")
                        lines.offset, lines.number = end + 1, lines.number + 1
                        continue
            self._read_other(lines, report, entries.postmap, fold)

    def read_aliases(self, report: Report) -> None:
        """Read the content as postalias(1) does.  Raises TableError."""
        lines, fold = Lines(self._content), report.context.folding.fixed
        while lines.offset < len(self._content):
            self._read_other(lines, report, aliases.entry, fold)

    def _read_other(
        self,
        lines: Lines,
        report: Report,
        split: Callable[[bytes], tuple[bytes, bytes]],
        fold: Callable[[bytes], bytes | None],
    ) -> None:
        taken = lines.take()
        text = check_line(*taken, report) if taken else None
        if taken is None or text is None:
            return
        number = taken[0]
        try:
            key, value = split(text)
        except ValueError as error:
            report.skip(number, repr(text[:100]), str(error))
            return
        if split is entries.postmap and key.endswith(b":"):
            report.note(number, f"{key!r}: is this an aliases file?", "no colon behind a key")
        folded = fold(key)
        if folded is None:
            report.skip(number, repr(key), "UTF-8")
        elif folded in self._places or folded in self._others:
            report.note(number, f"a second entry for {folded!r}", "one")
        else:
            self._others[folded] = value, number


def load(content: bytes, report: Report) -> Index:
    """The index of a source.  Raises TableError."""
    index = Index(content)
    if report.context.aliases:
        index.read_aliases(report)
    else:
        index.read(report)
    return index


class Hash(Local):
    """Fixed keys from a text file."""

    def __init__(self, name: str, context: Context) -> None:
        super().__init__(context.spec(name))
        self._folding = context.folding
        self._source = Source(context.path(name), self.name, context, load)

    def find_now(self, key: bytes) -> Found | None:
        """Raises Unavailable if the value is not UTF-8 though it must be."""
        folded = self._folding.fixed(key)
        found = self._source.get().get(folded) if folded is not None else None
        if found is None:
            return None
        value, line = found
        if not self._folding.allows(value):
            raise Unavailable(self.name, f"the value of {key!r} is not UTF-8")
        return Found(value, f"{self._source.file}:{line}")

    def entries(self) -> Iterator[tuple[bytes, Found]]:
        """Every key with its answer."""
        index = self._source.get()
        for key in index:
            value, line = index.get(key) or (b"", 0)
            yield key, Found(value, f"{self._source.file}:{line}")

    def changes(self) -> tuple[Changes, ...]:
        """How often the file was read."""
        return self._source.changes()

    def stale(self) -> str:
        """Why an older content is in force; empty if it is not."""
        return self._source.stale()


def open(name: str, context: Context) -> Hash:
    """Raises TableError."""
    return Hash(name, context)
