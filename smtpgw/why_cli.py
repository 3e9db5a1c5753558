"""`smtpgw why ID`: what a client was told, and everything that led to it.

Exit codes: 0 found; 1 nothing known by this id, or the records cannot be read; 78 the settings
cannot be used (sysexits.h, EX_CONFIG).
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from smtpgw.queue_cli.common import CONFIG_ERROR, DEFAULT_FILE, ConfigOption, JsonOption, complain

_ID = re.compile(r"[0-9A-Za-z]{4,40}\Z", re.ASCII)


def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The reference at the end of a refusal, the queue id of a mail that was taken, or "
            "the session of a line in the log.",
        ),
    ],
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Show why a client was told what it was told: every restriction, table and milter that was
    asked, what it said, and which had the last word.

    The gateway need not run.  The newest decisions are kept, see [smtpgw.decisions].
    """
    from milterd.base.toml_file import ConfigError
    from smtpgw import queue_place
    from smtpgw import why_show as work

    name = name.strip("[]")
    if _ID.match(name) is None:
        raise typer.BadParameter("expected letters and digits: a reference, queue id or session")
    try:
        directory = queue_place.directory(config)
    except ConfigError as error:
        complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    raise typer.Exit(work.run(directory, name, as_json=as_json))
