"""inline:{ key=value, { key = text with spaces }, ... } - a table written in its name.

A key is folded when it is stored, as with hash:, and the last of several counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from smtpgw.tables import spec as specs
from smtpgw.tables.context import Context
from smtpgw.tables.table import Changes, Found, Local, TableError

EXPECTED = "inline:{ key=value, { key = value }, ... }"


class Inline(Local):
    """Keys and values."""

    def __init__(self, name: str, entries: Mapping[bytes, bytes], context: Context) -> None:
        super().__init__(name)
        self._folding, self._entries = context.folding, dict(entries)

    def find_now(self, key: bytes) -> Found | None:
        """The value of a key."""
        folded = self._folding.fixed(key)
        value = self._entries.get(folded) if folded is not None else None
        return None if value is None else Found(value, self.name)

    def changes(self) -> tuple[Changes, ...]:
        """Nothing: what stands in a name never changes."""
        return ()

    def entries(self) -> Iterator[tuple[bytes, Found]]:
        """Every key with its value."""
        for key, value in self._entries.items():
            yield key, Found(value, self.name)


def open(name: str, context: Context) -> Inline:
    """Raises TableError."""
    spec = context.spec(name)
    try:
        pairs = [_pair(each) for each in specs.members(name)]
    except ValueError as error:
        raise TableError(spec, found=str(error), expected=EXPECTED) from error
    entries = {}
    for key, value in pairs:
        folded = context.folding.fixed(specs.octets(key))
        if folded is None or not context.folding.allows(specs.octets(value)):
            raise TableError(spec, found=f"{key!r} = {value!r}", expected="UTF-8")
        entries[folded] = specs.octets(value)
    return Inline(spec, entries, context)


def _pair(text: str) -> tuple[str, str]:
    """split_qnameval(): white space in double quotes belongs to the name, with the quotes."""
    if text.startswith("{"):
        text = specs.inside(text)
    text = text.lstrip(specs.SPACE)
    end, quoted = 0, False
    while end < len(text):
        if text[end] == "\\":
            end += 1
        elif text[end] == '"':
            quoted = not quoted
        elif not quoted and (text[end] in specs.SPACE or text[end] == "="):
            break
        end += 1
    name, rest = text[:end], text[end:].lstrip(specs.SPACE)
    if not rest.startswith("="):
        raise ValueError(f"no '=' behind the key in {text!r}")
    return name, rest[1:].strip(specs.SPACE)
