"""`smtpgw explain`: what a client would be told at each command, and why.

Exit codes: 0 all is taken; 1 something is refused for good; 75 something is refused for now
(sysexits.h, EX_TEMPFAIL); 78 the settings cannot be used (EX_CONFIG).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

import typer

from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption, JsonOption


def explain(
    client: Annotated[str, typer.Option(metavar="IP", help="The client's address.")],
    recipients: Annotated[
        list[str], typer.Option("--to", metavar="ADDRESS", help="A recipient; may be given again.")
    ],
    helo: Annotated[str, typer.Option(metavar="NAME", help="What it says in EHLO.")] = "localhost",
    sender: Annotated[
        str,
        typer.Option("--from", metavar="ADDRESS", help="Who sends; the null sender without it."),
    ] = "",
    listener: Annotated[
        str, typer.Option(metavar="NAME", help="Where it connects; the first one without it.")
    ] = "",
    login: Annotated[
        str, typer.Option("--sasl-user", metavar="NAME", help="Who has logged in by AUTH.")
    ] = "",
    client_name: Annotated[
        str, typer.Option(metavar="NAME", help="The client's name, instead of asking for it.")
    ] = "",
    tls: Annotated[
        bool, typer.Option("--tls", help="It speaks TLS, as it always does where it must.")
    ] = False,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Show what a client would be told at each command, and every restriction, table and zone that
    is asked on the way, with what it says and how long it takes.

    The lists are those of the settings, tables and DNS the real ones.  The gateway need not run.
    Milters are not asked, and nothing is counted or sent.  Exits with 0 if all recipients are
    taken, 1 if something is refused, 75 if only for now, 78 for settings that cannot be used.
    """
    from smtpgw import explain_show as work  # slower to load than most commands take
    from smtpgw.explain import Asked

    try:
        ip_address(client)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--client") from None
    asked = Asked(client, helo, sender, tuple(recipients), client_name, login, tls)
    raise typer.Exit(work.run(config, listener, asked, as_json=as_json))
