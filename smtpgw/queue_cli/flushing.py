"""`smtpgw queue flush`: as postqueue(1) -f, -i and -s."""

from __future__ import annotations

from typing import Annotated

import typer

from milterd.base.spread import spread
from smtpgw.queue import tools
from smtpgw.queue.states import MailState
from smtpgw.queue.tools import Changed
from smtpgw.queue_cli import chosen
from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption, JsonOption, Opened, opened
from smtpgw.queue_cli.filters import EVERYTHING, Given

_WAITING = frozenset({MailState.INCOMING, MailState.DEFERRED})


@spread
def flush(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    site: Annotated[
        str,
        typer.Option(
            metavar="DOMAIN",
            help="All that waits for this domain, for those below it (.example.net), or for "
            "this destination (smtp:[mx.example.net]); its rest is over.",
        ),
    ] = "",
    given: Given = EVERYTHING,
) -> None:
    """Try mails again now, and whatever destination they wait for."""
    if site and (ids or given.some):
        raise typer.BadParameter("expected --site alone, without ids and filters")
    everything = ids == [chosen.ALL] and not given.some
    if not (site or everything):
        ids, given = chosen.resolve("flushed", ids, given, True, _WAITING)
    with opened(config) as queue:
        if site or everything:
            count = _site(queue, site) if site else queue.tool.flush(queue.now)
            chosen.report("flushed", Changed(count), as_json, strict=False)
            return
        chosen.change(
            "flushed", ids, given, lambda q: tools.flush(q.now), queue=queue, as_json=as_json
        )


def _site(queue: Opened, site: str) -> int:
    if ":" in site:
        return queue.tool.flush_destination(site, queue.now)
    return queue.tool.flush_domain(site.removeprefix("@"), queue.now)
