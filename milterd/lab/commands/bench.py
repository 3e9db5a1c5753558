"""`milterlab bench`: how many mails a milter takes, and how long each stage lasts."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status

if TYPE_CHECKING:
    from milterd.lab.bench.report import Summary
    from milterd.lab.bench.run import Plan, Progress
    from milterd.lab.bench.turns import Teller

_LARGEST = 1 << 28


def bench(
    socket: Annotated[str, typer.Argument(help="unix:PATH or inet:PORT@HOST.")],
    other: Annotated[
        str | None,
        typer.Argument(metavar="[SOCKET2]", help="Another milter to compare with, in turns."),
    ] = None,
    connections: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Connections at once.")
    ] = 8,
    size: Annotated[
        str, typer.Option(metavar="S[,S...]", help="Octets of a message; k and M may follow.")
    ] = "4k",
    headers: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="Header fields of a message.")
    ] = 10,
    keep: Annotated[int, typer.Option(metavar="N", min=1, help="Mails on one connection.")] = 10,
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.05, max=3600, help="Of one round.")
    ] = 2.0,
    messages: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="End a round after so many mails, if earlier."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Rounds for each milter and size.")
    ] = 5,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="To wait for each answer.")
    ] = 30.0,
    every_answer: Annotated[
        bool,
        typer.Option("--every-answer", help="Let the milter leave no event unanswered."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a milter: mails a second, and the time that each stage takes."""
    from milterd.lab.bench.run import Plan

    plans = [
        Plan(connections=connections, size=each, headers=headers, keep=keep, duration=duration,
             messages=messages, answer=timeout, every_answer=every_answer)
        for each in sizes(size)
    ]  # fmt: skip
    raise typer.Exit(_run([socket, *([other] if other else [])], plans, rounds, as_json))


def sizes(text: str) -> list[int]:
    """The values of --size, in octets."""
    found = []
    for each in text.split(","):
        number, factor = each.strip(), 1
        for letter, value in (("k", 1 << 10), ("M", 1 << 20)):
            if number.endswith(letter):
                number, factor = number.removesuffix(letter), value
        if not number.isdecimal() or not number.isascii() or int(number) * factor > _LARGEST:
            expected = f"a number of octets up to {_LARGEST >> 20}M, as in 4k,1M"
            raise typer.BadParameter(f"{each!r}: expected {expected}", param_hint="--size")
        found.append(int(number) * factor)
    return found


def _run(sockets: list[str], plans: list[Plan], rounds: int, as_json: bool) -> int:
    from milterd.lab.bench.report import as_values
    from milterd.lab.bench.turns import measure
    from milterd.lab.link import MilterError

    found = []
    try:
        for plan in plans:
            summaries = measure(sockets, plan, rounds, _teller(plan, rounds))
            _clear()
            found.append(as_values(plan, summaries))
            if not as_json:
                _print(plan, summaries)
    except MilterError as error:
        _clear()
        typer.echo(f"milterlab: {error}", err=True)
        return error.fault.value
    except ValueError as error:
        typer.echo(f"milterlab: {error}", err=True)
        return status.USAGE
    if as_json:
        typer.echo(json.dumps(found))
    return status.GOOD


def _teller(plan: Plan, rounds: int) -> Teller:
    """Says how far a round is, on a terminal."""

    def teller(socket: str, number: int) -> Progress | None:
        said = f"{plan.size} octets, {socket}, round {number} of {rounds}"

        def tell(mails: int, seconds: float) -> None:
            typer.echo(f"\r\x1b[K{said}: {mails} mails in {seconds:.1f} s", err=True, nl=False)

        return tell if sys.stderr.isatty() else None

    return teller


def _clear() -> None:
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)


def _print(plan: Plan, summaries: list[Summary]) -> None:
    from milterd.lab.bench.report import as_lines, ratio_lines

    for each in summaries:
        for line in as_lines(plan, each):
            typer.echo(line)
        typer.echo()
    if len(summaries) == 2:
        for line in ratio_lines(*summaries):
            typer.echo(line)
