"""The command `milterd`.  Exit codes: 0 well, 1 warnings, or what `run` needs is not to be had
now, 78 settings that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

CANNOT_START, CONFIG_ERROR = 1, 78
DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")


class _Dkim(TyperGroup):
    """The commands `milterd dkim`, loaded when one of them is looked at."""

    def list_commands(self, _ctx: object) -> list[str]:
        return list(_dkim_commands())

    def get_command(self, _ctx: object, cmd_name: str) -> Any:
        return _dkim_commands().get(cmd_name)


def _dkim_commands() -> Mapping[str, Any]:
    from milterd.dkim_cli import app as commands

    return typer.main.get_group(commands).commands


app = typer.Typer(
    help="Host mail filters for Postfix and other MTAs: virus scanning, DKIM signing, header "
    "rules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(
    typer.Typer(
        cls=_Dkim,
        help="DKIM keys: make, publish, check and replace them.",
        no_args_is_help=True,
        add_completion=False,
    ),
    name="dkim",
)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="The settings file.")
]


@app.command(epilog="Example: milterd run --config /etc/gatepost/gatepost.toml")
def run(config: ConfigOption = DEFAULT_FILE) -> None:
    """Run the filters until SIGTERM or SIGINT; SIGHUP reads the settings again."""
    from rich.console import Console

    from milterd.base import collector, logs
    from milterd.base.toml_file import ConfigError

    with collector.loading():
        from milterd.daemon import SettingsRefused, StartError
        from milterd.daemon import run as run_daemon

    try:
        status = run_daemon(config)
    except (ConfigError, StartError) as error:
        logs.flush()
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        settings = isinstance(error, ConfigError | SettingsRefused)
        raise typer.Exit(CONFIG_ERROR if settings else CANNOT_START) from None
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
    from rich.console import Console

    from milterd import check as checking

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
    from rich.console import Console

    from milterd.base import reference
    from milterd.config import MilterdConfig

    Console(soft_wrap=True, highlight=False).out(reference.generate(MilterdConfig), end="")


def _print_matrix(out: Console, rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for each in rows[1:]:
        table.add_row(*each)
    out.print(table)


def main() -> None:
    """The entry point."""
    app()
