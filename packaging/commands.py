"""docs/commands.md as it should be, made from the commands' own help.

python packaging/commands.py > docs/commands.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from typer import Context
from typer.main import get_command

from milterd.cli import app as milterd
from milterd.lab.cli import app as milterlab
from smtpgw.cli import app as smtpgw

PROGRAMS = {"milterd": milterd, "smtpgw": smtpgw, "milterlab": milterlab}
_HEAD = """\
# Commands

Made from the commands' own help by `python packaging/commands.py > docs/commands.md`.
Every command has `--help`.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that is not hidden, by its full name, groups included."""
    for name, app in PROGRAMS.items():
        yield from _walk(name, get_command(app))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    if not hasattr(command, "list_commands"):
        return
    context = Context(command)
    for each in command.list_commands(context):
        below = command.get_command(context, each)
        if not below.hidden:
            yield from _walk(f"{name} {each}", below)


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_section(name, command) for name, command in commands())


def _section(name: str, command: Any) -> str:
    level = "#" * min(len(name.split()) + 1, 3)
    lines = [f"\n{level} `{_usage(name, command)}`\n", _plain(command.help), ""]
    rows = [_row(each) for each in command.params if not _is_help(each)]
    if rows:
        lines += ["| argument | meaning |", "|---|---|", *rows, ""]
    if command.epilog:
        lines += [_plain(command.epilog), ""]
    return "\n".join(lines)


def _usage(name: str, command: Any) -> str:
    arguments = [_metavar(each) for each in command.params if each.param_type_name == "argument"]
    return " ".join([name, *arguments])


def _row(parameter: Any) -> str:
    shown = _metavar(parameter)
    if parameter.param_type_name != "argument":
        shown = ", ".join(parameter.opts) + (f" {shown}" if shown else "")
    return f"| `{shown.replace('|', chr(92) + '|')}` | {_plain(parameter.help)} |"


def _metavar(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    if getattr(parameter, "is_flag", False):
        return ""
    return str(parameter.name).upper()


def _is_help(parameter: Any) -> bool:
    return "--help" in parameter.opts


def _plain(text: str | None) -> str:
    """Help as one paragraph each; a table cell's bar is escaped."""
    paragraphs = (text or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
