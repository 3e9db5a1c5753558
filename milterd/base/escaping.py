"""What strangers wrote, as one line of harmless characters: for logs, terminals and pages.

Apart from the log, since commands that only print shall not wait for its libraries.
"""

from __future__ import annotations

MAX_VALUE = 512
"""Characters of one value."""

_CLEAN = frozenset(chr(each) for each in range(32, 127)) - {"\\"}


def escape(value: str, limit: int = MAX_VALUE) -> str:
    """The text on one line: control, format, bidirectional and unassigned characters
    become escapes, as do backslashes; more than `limit` characters are cut."""
    cut = value[:limit]
    # What is ASCII and printable is _CLEAN and backslashes; asked so, it takes a tenth of the time.
    if not (cut.isascii() and cut.isprintable()) or "\\" in cut:
        cut = "".join(each if each in _CLEAN else _escaped(each) for each in cut)
    return cut if len(value) <= limit else f"{cut}...[{len(value)} characters]"


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
