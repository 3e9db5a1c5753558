"""`milterlab run`: play scenarios against a milter, and say what came of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status

if TYPE_CHECKING:
    from milterd.lab.scenario.run import Outcome

SUFFIX = ".milter"


def run(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|DIRECTORY...", help="Scenarios, or directories of *.milter."),
    ],
    socket: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="unix:PATH or inet:PORT@HOST, instead of the scenarios' own; nothing is started.",
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A value for ${NAME}; may be repeated."),
    ] = None,
    match: Annotated[
        str, typer.Option("-k", "--match", metavar="TEXT", help="Only those with this in the path.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for each answer.")
    ] = 30.0,
    total: Annotated[
        float, typer.Option(min=0.001, help="Seconds that one scenario may take.")
    ] = 60.0,
    talk: Annotated[bool, typer.Option("-v", "--verbose", help="Print all that was said.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one line a scenario.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a JUnit XML report here.")
    ] = None,
) -> None:
    """Play scenarios against a milter, and say at which line it does otherwise."""
    from milterd.lab.link import Patience
    from milterd.lab.scenario import report
    from milterd.lab.scenario.load import play_file

    given = _assigned(assign or [])
    outcomes: list[Outcome] = []
    for path in _found(files, match):
        outcome = play_file(path, given, socket=socket, patience=Patience(timeout, total))
        outcomes.append(outcome)
        if as_json:
            typer.echo(json.dumps(report.values(outcome)))
            continue
        for line in report.lines(outcome, talk):
            typer.echo(line)
    if not as_json:
        typer.echo(report.summary(outcomes))
    worst = max(each.status for each in outcomes)
    if junit is not None:
        worst = max(worst, _write(junit, report.junit(outcomes)))
    raise typer.Exit(worst)


def _assigned(words: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for each in words:
        name, equals, value = each.partition("=")
        if not equals or not name.isidentifier() or not name.isascii():
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--set")
        found[name] = value.encode("utf-8", "surrogateescape")
    return found


def _found(paths: Sequence[Path], match: str) -> list[Path]:
    found: list[Path] = []
    for each in paths:
        if each.is_dir():
            inside = sorted(each.rglob(f"*{SUFFIX}"))
            if not inside:
                raise typer.BadParameter(f"{each} has no *{SUFFIX} file", param_hint="FILE")
            found += inside
        else:
            found.append(each)
    chosen = [each for each in found if match in str(each)]
    if not chosen:
        raise typer.BadParameter(f"no scenario has {match!r} in its path", param_hint="--match")
    return chosen


def _write(path: Path, text: str) -> int:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        typer.echo(f"milterlab: cannot write {path}: {error.strerror}", err=True)
        return status.USAGE
    return status.GOOD
