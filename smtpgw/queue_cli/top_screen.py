"""What `smtpgw queue top` shows to people: a table once, or a screen that is kept current."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from milterd.base.escaping import escape
from smtpgw.queue.tools import QueueTool
from smtpgw.queue_cli.common import moment
from smtpgw.queue_cli.shape_table import label
from smtpgw.queue_cli.top_view import View, age, look

_SHARE = 4
"""A look costs at most one part in so many of the time between two."""
_PIPE_WIDTH = 240


def show(tool: QueueTool, limit: int, interval: float, *, once: bool) -> None:
    """The queue at this moment; on a terminal, unless `once`, until Ctrl-C."""
    console = Console(highlight=False)
    if once or not console.is_terminal:
        if not console.is_terminal:
            console.width = _PIPE_WIDTH
        console.print(_drawn(look(tool, time.time()), limit))
        return
    _watch(tool, console, interval, limit)


def _watch(tool: QueueTool, console: Console, interval: float, limit: int) -> None:
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                began = time.monotonic()
                live.update(_drawn(look(tool, time.time()), limit), refresh=True)
                time.sleep(max(interval, _SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        return


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
            Text(rest + ("" if each.rest is None else escape(each.rest.note))),
        )
    more = len(view.lines) - limit
    end = [Text(f"... and {more} destinations more")] if more > 0 else []
    return Group(Text(f"{moment(view.now)}  {counts or 'no queue'}"), Text(""), table, *end)
