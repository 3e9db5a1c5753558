"""`smtpgw queue top`: the destinations with most mails, as they are now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from milterd.base import logs
from smtpgw.queue.ages import Ages
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Rest
from smtpgw.queue.tools import QueueTool
from smtpgw.queue_cli.common import (
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    moment,
    opened,
    say_json,
)
from smtpgw.queue_cli.shape import label
from smtpgw.queue_cli.why import by_site

_SHARE = 4
"""A look costs at most one part in so many of the time between two."""
_PIPE_WIDTH = 240


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


def top(
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    interval: Annotated[
        float, typer.Option(help="Seconds between two looks, or more for a large queue.", min=0.2)
    ] = 2.0,
    limit: Annotated[int, typer.Option(help="At most so many lines.", min=1)] = 20,
) -> None:
    """Watch the queue: the destinations with most mails, those in delivery, and those that rest
    with the reason.  Ctrl-C ends it."""
    with opened(config) as queue:
        if as_json:
            for each in look(queue.tool, queue.now).lines[:limit]:
                say_json(_object(each))
            return
        console = Console(highlight=False)
        if once or not console.is_terminal:
            if not console.is_terminal:
                console.width = _PIPE_WIDTH
            console.print(_drawn(look(queue.tool, queue.now), limit))
            return
        _watch(queue.tool, console, interval, limit)


def _watch(tool: QueueTool, console: Console, interval: float, limit: int) -> None:
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                began = time.monotonic()
                live.update(_drawn(look(tool, time.time()), limit), refresh=True)
                time.sleep(max(interval, _SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        return


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


def _object(line: Line) -> dict[str, Any]:
    return {
        "destination": label(line.destination),
        "waiting": line.waiting,
        "active": line.active,
        "resting_until": None if line.rest is None else moment(line.rest.until),
        "reason": "" if line.rest is None else logs.escape(line.rest.note),
        "oldest": round(line.oldest),
    }


def _drawn(view: View, limit: int) -> Group:
    counts = ", ".join(f"{count} {state.name.lower()}" for state, count in view.counts.items())
    table = Table(box=None, pad_edge=False)
    table.add_column("DESTINATION", overflow="fold")
    for name in ("WAITING", "IN DELIVERY", "OLDEST"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("RESTS", overflow="fold")
    for each in view.lines[:limit]:
        rest = "" if each.rest is None else f"for {age(each.rest.until - view.now)}: "
        table.add_row(
            Text(label(each.destination)),
            str(each.waiting),
            str(each.active),
            age(each.oldest) if each.waiting + each.active else "",
            Text(rest + ("" if each.rest is None else logs.escape(each.rest.note))),
        )
    more = len(view.lines) - limit
    end = [Text(f"... and {more} destinations more")] if more > 0 else []
    return Group(Text(f"{moment(view.now)}  {counts or 'no queue'}"), Text(""), table, *end)


def age(seconds: float) -> str:
    """A time in the largest unit that says something: 59s, 59m, 23h, 5d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(max(seconds, 0))}s"
