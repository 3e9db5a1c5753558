"""The command `smtpgw`.

Exit codes: 0 well; 1 something is wrong or was not found; 2 wrong usage; 78 settings
that cannot be used (sysexits.h, EX_CONFIG).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from milterd.base.escaping import escape
from milterd.base.toml_file import ConfigError
from smtpgw.explain_cli import explain
from smtpgw.greylist_cli import greylist
from smtpgw.lookup_cli import lookup
from smtpgw.passwd_cli import passwd
from smtpgw.quarantine_cli import quarantine
from smtpgw.queue_cli import queue
from smtpgw.route_cli import route
from smtpgw.why_cli import why

CONFIG_ERROR = 78
DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")

app = typer.Typer(
    help="A mail gateway: takes mail by SMTP, asks milters, keeps it safe, delivers it by LMTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(queue, name="queue")
app.add_typer(quarantine, name="quarantine")
app.add_typer(greylist, name="greylist")
app.command(epilog="Example: smtpgw lookup hash:/etc/postfix/virtual u@example.net")(lookup)
app.command(epilog="Example: smtpgw route u@example.net --from a@example.org")(route)
app.command(
    epilog="Example: smtpgw explain --client 192.0.2.1 --helo mail.example.net "
    "--from a@example.net --to u@example.org"
)(explain)
app.command(epilog="Example: smtpgw why 7kq2m9xd")(why)
app.command(epilog="Example: smtpgw passwd u@example.net")(passwd)

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", envvar="GATEPOST_CONFIG", help="The settings file."
    ),
]


@app.command(epilog="Example: smtpgw run --config /etc/gatepost/gatepost.toml")
def run(config: ConfigOption = DEFAULT_FILE) -> None:
    """Run the gateway until SIGTERM or SIGINT; SIGHUP reads the settings again."""
    from milterd.base import collector, logs

    with collector.loading():
        from smtpgw import listening, supervisor

    try:
        status = supervisor.run(config.absolute())
    except ConfigError as error:
        _complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    except listening.StartError as error:
        _complain(error)
        raise typer.Exit(1) from None
    finally:
        logs.flush()
    raise typer.Exit(status)


@app.command(epilog="Example: smtpgw check --config gatepost.toml --json")
def check(
    config: ConfigOption = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at the settings and at all they name: sockets, directories, milters, deliveries.

    Exits with 0 when mail can flow, 1 where it cannot, 78 for settings that cannot be used.
    """
    from smtpgw import check as checking

    findings, usable = checking.examine(config)
    errors = [each for each in findings if each.level == "error"]
    if as_json:
        found = [dataclasses.asdict(each) for each in findings]
        _print_json({"file": str(config), "ok": not errors, "findings": found})
    else:
        _print_findings(findings)
    raise typer.Exit((1 if usable else CONFIG_ERROR) if errors else 0)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: smtpgw sendmail u@example.net < mail",
)
def sendmail(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTIONS] [RECIPIENT]...", help="As sendmail(1).")
    ] = None,
) -> None:
    """Hand in a mail from standard input, with the options and exit codes of Postfix's
    sendmail(1), whether the gateway runs or not.  `gatepost-sendmail` is the same and starts
    faster."""
    from smtpgw.local import sendmail as command

    raise typer.Exit(command.main(["sendmail", *(words or ())]))


@app.command(epilog="Example: smtpgw config > gatepost.toml")
def config() -> None:
    """Print the settings of both halves with their defaults, every key explained."""
    import subprocess

    from milterd.base import reference
    from smtpgw.config import GatewaySettings

    # The halves do not import each other: the other half is asked as a program, which without -P
    # would load what stands in the working directory.
    command = [sys.executable, "-Pm", "milterd", "config"]
    other = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    without = ("log", "metrics") if other.returncode == 0 else ()
    if other.returncode:
        _complain(f"milterd's half is left out: {other.stderr.strip()[-500:]}")
    sys.stdout.write(other.stdout if other.returncode == 0 else "")
    sys.stdout.write("\n" + reference.generate(GatewaySettings, without=without))


def _print_findings(findings: list[Any]) -> None:
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    styles = {"ok": "green", "warning": "yellow", "error": "red"}
    for each in findings:
        level = f"[{styles[each.level]}]{each.level}[/]"
        # Brackets of settings and addresses are no markup.
        table.add_row(level, plain(escape(each.subject)), plain(escape(each.detail, 2000)))
    Console(highlight=False, emoji=False).print(table)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _complain(error: object) -> None:
    sys.stderr.write(f"{error}\n")


def main() -> None:
    """The entry point."""
    app()
