"""The options that several commands share, spelled and explained alike."""

from __future__ import annotations

from typing import Annotated

import typer

SenderOption = Annotated[
    str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender; may be empty.")
]
RecipientsOption = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="ADDRESS", help="Envelope recipient; may be repeated."),
]
ClientOption = Annotated[
    str, typer.Option(metavar="NAME[IP]", help="The SMTP client: IP, [IP] or NAME[IP].")
]
HeloOption = Annotated[str, typer.Option(metavar="NAME", help="Its HELO name.")]
AuthOption = Annotated[
    str | None, typer.Option(metavar="LOGIN", help="Send as authenticated by this login.")
]
MacroOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A macro for the milter; may be repeated."),
]
MtaOption = Annotated[
    str, typer.Option("--as", metavar="MTA", help="Which MTA to be: postfix or sendmail.")
]
VersionOption = Annotated[
    int, typer.Option("--protocol", min=2, max=6, help="Milter protocol version to offer.")
]
