"""`smtpgw route ADDRESS`: what becomes of a recipient, and which line of which table says so.

Exit codes: 0 it can be delivered; 1 it would be refused or bounced; 75 a table cannot answer, or
mail would wait (sysexits.h, EX_TEMPFAIL); 78 the settings cannot be used (EX_CONFIG).
"""

from __future__ import annotations

from typing import Annotated

import typer

from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption


def route(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="A recipient.  - reads them from standard input, one a line, with a TAB and a "
            "sender behind it or without.",
        ),
    ],
    sender: Annotated[
        str,
        typer.Option("--from", metavar="SENDER", help="Who sends; the null sender without it."),
    ] = "",
    config: ConfigOption = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line an address.")] = False,
) -> None:
    """Show what becomes of a recipient: who may send there, whether it is known, what it is
    rewritten to, and transport, nexthop, TLS and limits of all that it becomes.

    Nothing is sent, and the gateway need not run.  Exits with 0 if it can be delivered, 1 if it
    would be refused or bounced, 75 if a table cannot answer or mail would wait, 78 for settings
    that cannot be used.
    """
    from smtpgw import route_show as work  # slower to load than most commands take

    raise typer.Exit(work.run(config, address, sender, as_json=as_json))
