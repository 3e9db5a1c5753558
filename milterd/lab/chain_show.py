"""What became of a mail in a chain of milters, for a reader and for a program.

Octets of a mail or a milter are escaped before they reach a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator

from milterd.base.escaping import escape
from milterd.core.decision import Verdict
from milterd.lab import show
from milterd.lab.chain import Chained, Part
from milterd.lab.diff import Line, difference

_WIDTH = 2000


def as_lines(name: str, found: Chained) -> Iterator[Line]:
    """The report for a reader: each milter with its diff, all in a table, the end."""
    for number, part in enumerate(found.parts, 1):
        for at, line in enumerate(show.as_lines(f"{number}. {part.address}", part.played)):
            yield ("" if at else "bold"), line
        yield from difference(part.played.before, part.played.after)
        yield "", ""
    rows = [("", "milter", "answer", "edits")] + [
        (str(number), part.address, _answer(part, found), str(len(part.played.edits)))
        for number, part in enumerate(found.parts, 1)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for at, row in enumerate(rows):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("" if at else "bold"), escape(text.rstrip(), _WIDTH)
    style = "red" if found.verdict in (Verdict.REJECT, Verdict.TEMPFAIL) else "green"
    yield "", ""
    yield style, f"{escape(name, _WIDTH)}: {found.verdict.value} {_told(found)}".rstrip()
    yield from (("yellow", f"  {each}") for each in _notes(found))


def _answer(part: Part, found: Chained) -> str:
    """A cell of the table: what a milter answered to the message, or that it was not shown."""
    verdict = part.played.verdict
    if found.ended_by is not None and found.parts[found.ended_by] is part:
        return f"{verdict.value} {show.told(part.played)}".rstrip()
    if not part.shown and verdict is Verdict.CONTINUE:
        return "not shown the message"
    refused = len(part.played.refused)
    return verdict.value + (f", {refused} recipients refused" if refused else "")


def _told(found: Chained) -> str:
    return "" if found.ended_by is None else show.told(found.parts[found.ended_by].played)


def _notes(found: Chained) -> Iterator[str]:
    if found.ended_by is not None:
        yield f"by {escape(found.parts[found.ended_by].address, _WIDTH)}"
        return
    for part in found.parts:
        if part.played.quarantine is not None:
            yield f"held: {show.readable(part.played.quarantine)}"
    if not found.mail.envelope.recipients:
        yield "no recipient is left"


def as_values(name: str, found: Chained) -> dict[str, object]:
    """The report for a program."""
    ended = None if found.ended_by is None else found.parts[found.ended_by].address
    return {
        "file": name,
        "verdict": found.verdict.value,
        "reply": _told(found) or None,
        "ended_by": ended,
        "refused": [show.readable(each) for each in found.refused],
        "envelope": show.envelope_values(found.mail.envelope),
        "notes": list(_notes(found)) if ended is None else [],
        "milters": [_part(each) for each in found.parts],
    }


def _part(part: Part) -> dict[str, object]:
    values = show.as_values(part.address, part.played)
    del values["file"], values["envelope"]
    diff = [line for _, line in difference(part.played.before, part.played.after)]
    return {"milter": part.address, "shown": part.shown, **values, "diff": diff}
