"""`smtpgw lookup TABLE KEY`: what a table answers, as postmap -q asks it.

Exit codes: 0 found; 1 not found; 75 the table cannot answer (sysexits.h, EX_TEMPFAIL); 78 it
cannot be opened (EX_CONFIG).
"""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class How(enum.StrEnum):
    """What a key is: which other keys stand for it, and in which order."""

    KEY = "key"
    ADDRESS = "address"
    ACCESS = "access"
    TRANSPORT = "transport"
    DOMAIN = "domain"


def lookup(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="type:name, or several.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="- reads one from each line.")],
    how: Annotated[
        How,
        typer.Option(
            "--as",
            help="What KEY is: address, access, transport and domain also ask for the keys that "
            "stand for it in virtual(5), access(5), transport(5) and lists of domains.",
        ),
    ] = How.KEY,
    local: Annotated[
        bool, typer.Option("--local", help="The address is one of this machine's.")
    ] = False,
    delimiter: Annotated[
        str, typer.Option("--recipient-delimiter", metavar="CHARS", help="As in postconf(5).")
    ] = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each key that is asked for, and what told it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a key.")] = False,
) -> None:
    """Ask a table for a key: the value, or with `-` a line `key<TAB>value` for each that is found.

    Exits with 0 if something was found, 1 if nothing was, 75 if the table cannot answer, 78 if it
    cannot be used.
    """
    from smtpgw import lookup as work  # slower to load than most commands take

    asked = work.Asked(how.value, local, delimiter, explain, as_json, key == "-")
    raise typer.Exit(work.run(asked, table, key))
