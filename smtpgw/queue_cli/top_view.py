"""What `smtpgw queue top` shows: every destination of the queue at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from smtpgw.queue.ages import Ages
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Rest
from smtpgw.queue.tools import QueueTool
from smtpgw.queue_cli.why import by_site


@dataclass(frozen=True, slots=True)
class Line:
    """A destination: mails that wait, mails in delivery, why it is left alone, and the age of
    its oldest mail in seconds."""

    destination: str
    waiting: int
    active: int
    rest: Rest | None
    oldest: float


@dataclass(frozen=True, slots=True)
class View:
    """What is shown at one moment."""

    counts: dict[MailState, int]
    lines: list[Line]
    now: float


def look(tool: QueueTool, now: float) -> View:
    """The queue as it is now, the destination with most mails first."""
    waiting = tool.ages([MailState.INCOMING, MailState.DEFERRED], now)
    active = tool.ages([MailState.ACTIVE], now)
    rests = by_site(tool.resting(now))
    lines = [
        Line(
            site,
            waiting.get(site, Ages()).total,
            active.get(site, Ages()).total,
            rests.get(site),
            max(now - min(each.get(site, Ages()).oldest for each in (waiting, active)), 0.0),
        )
        for site in waiting.keys() | active.keys() | rests.keys()
    ]
    lines.sort(key=lambda each: (-each.waiting - each.active, each.destination))
    return View(tool.counts(), lines, now)


def age(seconds: float) -> str:
    """A time in the largest unit that says something: 59s, 59m, 23h, 5d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(max(seconds, 0))}s"
