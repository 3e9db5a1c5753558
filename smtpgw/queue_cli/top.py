"""`smtpgw queue top`: the destinations with most mails, as they are now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from milterd.base.escaping import escape
from smtpgw.queue_cli.common import (
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    moment,
    opened,
    say_json,
)
from smtpgw.queue_cli.shape_table import label
from smtpgw.queue_cli.top_view import Line, look


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
        from smtpgw.queue_cli import top_screen  # what draws is slow to load

        top_screen.show(queue.tool, limit, interval, once=once)


def _object(line: Line) -> dict[str, Any]:
    return {
        "destination": label(line.destination),
        "waiting": line.waiting,
        "active": line.active,
        "resting_until": None if line.rest is None else moment(line.rest.until),
        "reason": "" if line.rest is None else escape(line.rest.note),
        "oldest": round(line.oldest),
    }
