"""Logical lines of a table, as Postfix reads them (readllines(3)): a line that begins with white
space continues the one before, `#` and blank lines count for nothing, wherever they stand.
"""

from __future__ import annotations

BLANK = b" \t\r\n\v\f"
_GOES_ON = b" \t\r\n\v\f#"


class Lines:
    """A walk over the logical lines; `offset` and `number` say where the next one begins."""

    __slots__ = ("content", "number", "offset")

    def __init__(self, content: bytes) -> None:
        self.content, self.offset, self.number = content, 0, 1

    def take(self) -> tuple[int, bytes] | None:
        """Number of its first line, and the text; None: no more."""
        parts: list[bytes] = []
        first = 0
        while self.offset < len(self.content):
            if parts and self.content[self.offset] not in _GOES_ON:
                break
            line = self._line()
            words = line.lstrip(BLANK)
            if words and not words.startswith(b"#"):
                first = first or self.number - 1
                parts.append(line)
        return (first, b"".join(parts)) if parts else None

    def _line(self) -> bytes:
        end = self.content.find(b"\n", self.offset)
        end = len(self.content) if end < 0 else end
        line = self.content[self.offset : end]
        self.offset, self.number = end + 1, self.number + 1
        return line
