"""The command `milterd`.  Exit codes: 0 well, 1 warnings, 78 settings that cannot be used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from milterd import check as checking
from milterd.base import logs, reference
from milterd.base.toml_file import ConfigError
from milterd.config import DEFAULT_FILE, MilterdConfig, load
from milterd.dkim_cli import app as dkim_app

CONFIG_ERROR = 78

app = typer.Typer(
    help="Host mail filters for Postfix and other MTAs: virus scanning, DKIM signing, header "
    "rules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(dkim_app, name="dkim")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The settings file.")
]


@app.command(epilog="Example: milterd run --config /etc/gatepost/gatepost.toml")
def run(config: ConfigOption = DEFAULT_FILE) -> None:
    """Run the filters until SIGTERM or SIGINT; SIGHUP reads the settings again."""
    from milterd.daemon import Daemon, StartError

    try:
        settings = load(config)
        logs.setup(settings.log.format, settings.log.level, daemon="milterd")
        status = asyncio.run(Daemon(config, settings).run())
    except (ConfigError, StartError) as error:
        logs.flush()
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(CONFIG_ERROR) from None
    logs.flush()
    raise typer.Exit(status)


@app.command(epilog="Example: milterd check --config gatepost.toml --json")
def check(
    config: ConfigOption = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask clamd whether it is there.")
    ] = False,
) -> None:
    """Check settings, keys, rules and the rules' examples, and show what becomes of mail that is
    not clean, and in which order Postfix has to ask the filters.

    Exits with 0 when all is well, 1 with warnings, 78 with errors.
    """
    findings = checking.examine(config, offline=offline)
    levels = {each.level for each in findings}
    errors = "error" in levels
    out = Console(soft_wrap=True, highlight=False)
    rows = [] if errors else checking.matrix(config)
    postfix = "" if errors else checking.for_postfix(config)
    if as_json:
        out.out(checking.report(config, findings, rows, postfix))
    else:
        for each in findings:
            style = {"error": "red", "warning": "yellow"}.get(each.level, "dim")
            out.print(f"{each.level}: ", style=style, end="")
            out.print(f"{each.filter}: " if each.filter else "", each.problem, sep="", markup=False)
        if not levels - {"note"}:
            out.print(f"{config}: all is well", markup=False)
        _print_matrix(out, rows)
        if postfix:
            out.print(f"for main.cf: {postfix}", markup=False)
    raise typer.Exit(CONFIG_ERROR if errors else 1 if "warning" in levels else 0)


@app.command(epilog="Example: milterd config > gatepost.toml")
def config() -> None:
    """Print the tables of milterd with their defaults, every key explained."""
    Console(soft_wrap=True, highlight=False).out(reference.generate(MilterdConfig), end="")


def _print_matrix(out: Console, rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(*rows[0], box=None)
    for each in rows[1:]:
        table.add_row(*each)
    out.print(table)


def main() -> None:
    """The entry point."""
    app()
