"""`smtpgw queue shape`: how old the mails of each destination are, as qshape(1) shows it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from smtpgw.queue.states import MailState
from smtpgw.queue_cli import filters
from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption, JsonOption, opened, say, say_json
from smtpgw.queue_cli.shape_table import NAMES, label, table


def shape(
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    state: filters.StateOption = None,
    by: Annotated[
        Literal["destination", "sender"],
        typer.Option(help="Count by destination, or by the domain of the sender."),
    ] = "destination",
    plot: Annotated[bool, typer.Option("--plot", help="Draw it.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many lines; 0 means all.", min=0)] = 0,
) -> None:
    """Show how old mails are: a line for each destination, a column for each age in minutes.

    Without --state, mails that wait or are in delivery.
    """
    named = [MailState[each.upper()] for each in state or ("incoming", "active", "deferred")]
    with opened(config) as queue:
        found = queue.tool.ages(named, queue.now, by_sender=by == "sender")
    rows = sorted(found.items(), key=lambda row: (-row[1].total, row[0]))
    if as_json:
        for name, each in rows[: limit or None]:
            say_json({by: label(name), "total": each.total, **dict(zip(NAMES, each.counts))})  # noqa: B905 - as long by construction
    elif plot:
        from smtpgw.queue_cli import shape_plot  # what draws is slow to load

        shape_plot.draw(rows)
    else:
        for line in table(rows, limit):
            say(line)
