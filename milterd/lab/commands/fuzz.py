"""`milterlab fuzz`: look for conversations that a milter cannot stand."""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status

if TYPE_CHECKING:
    from milterd.base.sockets import SocketAddress
    from milterd.lab.fuzz.conversation import Conversation
    from milterd.lab.fuzz.hunt import Finding, Hunt, Plan
    from milterd.lab.fuzz.process import Watched

_SECONDS = 60.0
"""How long it runs where neither --runs nor --duration is given."""


def fuzz(
    socket: Annotated[str, typer.Argument(help="unix:PATH or inet:PORT@HOST.")],
    tapes: Annotated[
        list[Path] | None,
        typer.Option(metavar="TAPE", help="Play these, then change them; may be repeated."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed makes the same conversations.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Conversations to make up.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.1, help="How long to go on.")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to write a tape of each finding.")
    ] = Path(),
    pid: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The milter's process, to watch.")
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Start the milter so, and again when it has died."),
    ] = None,
    legal: Annotated[
        bool, typer.Option("--legal", help="Only what an MTA can come to send; nothing spoiled.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.05, help="To wait for each answer.")
    ] = 5.0,
    max_memory: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="What the process may grow by.")
    ] = 64,
    tries: Annotated[
        int, typer.Option(metavar="N", min=0, help="Smaller ones to try for each finding.")
    ] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Play made-up and spoiled conversations to a milter, and keep those it cannot stand."""
    from milterd.lab.fuzz.hunt import Plan

    if pid is not None and command is not None:
        raise typer.BadParameter("goes without --command", param_hint="--pid")
    if runs is None and duration is None:
        duration = _SECONDS
    if not out.is_dir():
        raise typer.BadParameter(f"{out} is no directory", param_hint="--out")
    plan = Plan(
        seed=secrets.randbelow(2**32) if seed is None else seed,
        runs=runs, duration=duration, answer=timeout, tries=tries,
        memory=max_memory << 20, out=out, legal=legal,
    )  # fmt: skip
    target = _target(socket)
    raise typer.Exit(
        _hunt(socket, target, plan, _watched(pid, command, target), _loaded(tapes or []), as_json)
    )


def _target(socket: str) -> SocketAddress:
    from milterd.base.sockets import parse

    try:
        return parse(socket)
    except ValueError as error:
        raise typer.BadParameter(f"{socket!r}: {error}", param_hint="SOCKET") from None


def _watched(pid: int | None, command: str | None, target: SocketAddress) -> Watched:
    from milterd.lab.fuzz.process import ByCommand, ByNumber, Watched

    if pid is not None:
        return ByNumber(pid)
    if command is None:
        return Watched()
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise typer.BadParameter(f"{command!r}: {error}", param_hint="--command") from None
    if not words:
        raise typer.BadParameter("is empty", param_hint="--command")
    return ByCommand(words, target)


def _loaded(tapes: list[Path]) -> list[Conversation]:
    from milterd.lab.fuzz.conversation import load
    from milterd.lab.tape import TapeError

    found = []
    for each in tapes:
        try:
            found += load(each)
        except TapeError as error:
            raise typer.BadParameter(str(error), param_hint="--tapes") from None
        except OSError as error:
            raise typer.BadParameter(f"{each}: {error.strerror}", param_hint="--tapes") from None
    return found


def _hunt(
    socket: str,
    target: SocketAddress,
    plan: Plan,
    watched: Watched,
    tapes: list[Conversation],
    as_json: bool,
) -> int:
    from milterd.lab.fuzz.hunt import Hunt
    from milterd.lab.fuzz.process import ProcessError

    hunt = Hunt(target, plan, watched, tapes, _tell)
    try:
        asyncio.run(hunt.run())
    except ProcessError as error:
        _clear()
        typer.echo(f"milterlab: {error}", err=True)
        return status.GONE
    except OSError as error:
        _clear()
        typer.echo(f"milterlab: {error.filename or plan.out}: {error.strerror}", err=True)
        return status.USAGE
    _clear()
    if as_json:
        typer.echo(json.dumps(_values(hunt, plan)))
    else:
        _print(socket, hunt, plan)
    return status.BAD if hunt.findings else status.GOOD


def _tell(said: str) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{said}", err=True, nl=False)


def _clear() -> None:
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)


def _print(socket: str, hunt: Hunt, plan: Plan) -> None:
    for each in hunt.findings:
        sure = "" if each.confirmed else " (seen once, not again)"
        typer.echo(f"{each.tape}: {each.wrong.kind} at {each.wrong.stage}: {each.wrong.what}{sure}")
        writes, octets = len(each.conversation.writes), each.conversation.size
        typer.echo(f"  run {each.run}, {writes} writes of {octets} octets")
        typer.echo(f"  look at it: milterlab show {each.tape}")
        typer.echo(f"  play it:    milterlab fuzz {socket} --tapes {each.tape} --runs 0")
    typer.echo(f"{hunt.runs} conversations, seed {plan.seed}: {len(hunt.findings)} findings")


def _values(hunt: Hunt, plan: Plan) -> dict[str, object]:
    return {
        "seed": plan.seed,
        "runs": hunt.runs,
        "findings": [_finding(each) for each in hunt.findings],
    }


def _finding(found: Finding) -> dict[str, object]:
    return {
        "kind": found.wrong.kind,
        "stage": found.wrong.stage,
        "what": found.wrong.what,
        "run": found.run,
        "confirmed": found.confirmed,
        "writes": len(found.conversation.writes),
        "octets": found.conversation.size,
        "tape": str(found.tape),
    }
