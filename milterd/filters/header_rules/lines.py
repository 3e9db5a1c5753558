"""The header that rules work on, as a list of lines, and the edits that make it of the mail's.

Edits are the difference between the list as it came and as it became, from the bottom up, so
that no edit moves the index of a later one.  A renamed field is put in under the one it
replaces, which is then deleted: so it keeps its place whether or not the MTA hides a Received
field of its own on top.  A new field in between is put where it belongs below such a hidden
one, which Postfix and our gateway have (an insertion's index counts it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from milterd.core.actions import AddHeader, ChangeHeader, HeaderEdit, InsertHeader
from milterd.core.mail import HeaderField

COLUMNS = 76


class Line(NamedTuple):
    """A field in the list that rules work on; a tuple, since every mail has one for each field.

    `origin` is its place in the mail; a line without one was added: `on_top` of all others,
    even of those the MTA hides, or where it stands in the list.
    """

    origin: int | None
    field: HeaderField
    on_top: bool = False


def lines_of(fields: Sequence[HeaderField]) -> list[Line]:
    """The visible fields as lines."""
    return [Line(at, each) for at, each in enumerate(fields) if not each.hidden]


def difference(fields: Sequence[HeaderField], lines: Sequence[Line]) -> Iterator[HeaderEdit]:
    """The edits that make `lines` of `fields`; lines with an origin keep their order."""
    left = {line.origin: line.field for line in lines if line.origin is not None}
    above: dict[int, list[HeaderField]] = {}
    top: list[HeaderField] = []
    waiting: list[HeaderField] = []
    for line in lines if len(left) < len(lines) else ():  # else nothing was added
        if line.origin is None:
            (top if line.on_top else waiting).append(line.field)
        elif waiting:
            above[line.origin], waiting = waiting, []
    changed: list[tuple[int, HeaderField, int]] = []
    seen: dict[bytes, int] = {}
    hidden = False
    for at, each in enumerate(fields):
        if each.hidden:
            hidden = True
            continue
        name = each.name.lower()
        nth = seen[name] = seen.get(name, 0) + 1
        if left.get(at) is not each or at in above:
            changed.append((at, each, nth))
    # Where nothing is hidden in what we see, the MTA hides the Received field of its own.
    unseen = 0 if hidden else 1
    for position, old, nth in reversed(changed):
        yield from _changed(old, left.get(position), position, nth)
        for each in reversed(above.get(position, ())):
            yield InsertHeader(position + unseen, each.name, each.value)
    for each in waiting:
        yield AddHeader(each.name, each.value)
    for each in reversed(top):
        yield InsertHeader(0, each.name, each.value)


def _changed(
    old: HeaderField, new: HeaderField | None, position: int, nth: int
) -> Sequence[HeaderEdit]:
    if new is old:
        return ()
    if new is None:
        return (ChangeHeader(old.name, nth, b""),)
    if new.named(old.name):
        # A change to an empty value is a deletion: an empty field keeps its spelling.
        return (ChangeHeader(new.name, nth, new.value),) if new.value else ()
    return InsertHeader(position + 1, new.name, new.value), ChangeHeader(old.name, nth, b"")


_CHUNK = re.compile(rb"[ \t]*[^ \t]+")


def folded(name: bytes, text: bytes, columns: int = COLUMNS) -> bytes:
    """A value for the field `name`: a space and the text, folded at its own white space."""
    value, column = b" ", len(name) + 2
    for chunk in _CHUNK.findall(text.strip(b" \t")):
        if column + len(chunk) > columns and chunk[:1] in b" \t" and not value.isspace():
            value += b"\r\n"
            column = 0
        value += chunk
        column += len(chunk)
    return value


def names_in(lines: Iterable[Line]) -> set[bytes]:
    """The names there are, in lower case."""
    return {each.field.name.lower() for each in lines}
