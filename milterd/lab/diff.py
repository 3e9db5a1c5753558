"""What became of a mail: a unified diff of its envelope, its header and its body.

Octets are escaped.  Bounded in time and in lines for any mail: a long stretch that differs
is shown as taken out and put in, without a search for what is common in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from milterd.core.mail import CRLF, Body, Envelope, Mail, body_octets
from milterd.lab.show import readable

Line = tuple[str, str]
"""A style of rich's, and a line of text."""
Op = tuple[str, int, int, int, int]
"""A tag of SequenceMatcher's, and what it is for: lines of the one, lines of the other."""

CONTEXT = 3
"""Lines shown round a difference."""
MOST_COMPARED = 400
"""Lines of a stretch that is searched for what both have."""
MOST_SHOWN = 300
"""Lines of a diff."""
_NO_END = b"\\ no line end at the end"


def difference(before: Mail, after: Mail) -> Iterator[Line]:
    """The diff, its lines indented; nothing where nothing differs."""
    left = MOST_SHOWN
    rest = 0
    for line in _all(before, after):
        if left:
            left -= 1
            yield line
        else:
            rest += 1
    if rest:
        yield "yellow", f"  [{rest} more lines]"


def _all(before: Mail, after: Mail) -> Iterator[Line]:
    yield from _part("envelope", _people(before.envelope), _people(after.envelope))
    if before.headers != after.headers:
        yield from _part("header", _fields(before), _fields(after))
    if before.body is not after.body:
        yield from _part("body", _lines(before.body), _lines(after.body))


def _people(envelope: Envelope) -> list[bytes]:
    sender = b" ".join([b"from <%b>" % envelope.sender, *envelope.sender_args])
    return [sender, *(b" ".join([b"to <%b>" % e.address, *e.args]) for e in envelope.recipients)]


def _fields(mail: Mail) -> list[bytes]:
    return [line for each in mail.headers for line in each.raw.split(CRLF)]


def _lines(body: Body) -> list[bytes]:
    found = body_octets(body).split(CRLF)
    if found[-1]:
        return [*found, _NO_END]
    return found[:-1]


def _part(name: str, one: Sequence[bytes], other: Sequence[bytes]) -> Iterator[Line]:
    groups = _groups(one, other)
    if not groups:
        return
    yield "bold", f"  --- {name} before"
    yield "bold", f"  +++ {name} after"
    for group in groups:
        first, last = group[0], group[-1]
        yield "cyan", f"  @@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@"
        for tag, start, end, other_start, other_end in group:
            if tag == "equal":
                yield from (("", f"   {readable(each)}") for each in one[start:end])
                continue
            yield from (("red", f"  -{readable(each)}") for each in one[start:end])
            added = other[other_start:other_end]
            yield from (("green", f"  +{readable(each)}") for each in added)


def _range(start: int, end: int) -> str:
    """Where, as a unified diff has it: a line and a count; the line before an empty range."""
    count = end - start
    return f"{start + 1 if count else start},{count}"


def _groups(one: Sequence[bytes], other: Sequence[bytes]) -> list[list[Op]]:
    """What differs, with some lines round it; lines that both begin or end with are left out
    before anything is compared."""
    head, tail = _common(one, other)
    if head == len(one) == len(other):
        return []
    start = max(0, head - CONTEXT)
    ends = len(one) - max(0, tail - CONTEXT), len(other) - max(0, tail - CONTEXT)
    middle = one[start : ends[0]], other[start : ends[1]]
    if max(map(len, middle)) > MOST_COMPARED:
        there = min(CONTEXT, tail)
        before, after = ends[0] - there, ends[1] - there
        return [
            [
                ("equal", start, head, start, head),
                ("replace", head, before, head, after),
                ("equal", before, ends[0], after, ends[1]),
            ]
        ]
    matcher = SequenceMatcher(None, *middle, autojunk=False)
    return [
        [(tag, *(each + start for each in where)) for tag, *where in group]  # type: ignore[misc]
        for group in matcher.get_grouped_opcodes(CONTEXT)
    ]


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> tuple[int, int]:
    """How many lines both begin with, and how many of the rest both end with."""
    most = min(len(one), len(other))
    head = 0
    while head < most and one[head] == other[head]:
        head += 1
    tail = 0
    while tail < most - head and one[-1 - tail] == other[-1 - tail]:
        tail += 1
    return head, tail
