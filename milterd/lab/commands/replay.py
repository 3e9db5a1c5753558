"""`milterlab replay`: a tape played to a milter again, and what it answers otherwise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status
from milterd.lab.commands.show import opened

if TYPE_CHECKING:
    from milterd.lab.differences import Rules
    from milterd.lab.replay import Replayed
    from milterd.lab.tape import TapeReader

_COLOURS = {"  -": typer.colors.RED, "  +": typer.colors.GREEN}


def replay(
    tape: Annotated[Path, typer.Argument(metavar="TAPE", help="A tape.")],
    socket: Annotated[str, typer.Argument(help="The milter: unix:PATH or inet:PORT@HOST.")],
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:REGEX",
            help="What to take for equal in values of the header field NAME, or, with *, in all "
            "values, replies and reasons; may be repeated.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A header field, edits of which do not count."),
    ] = None,
    connection: Annotated[
        int, typer.Option(min=0, help="Only this connection; 0 for all of them.")
    ] = 0,
    parallel: Annotated[
        int, typer.Option(min=1, max=1000, help="Connections to play at a time.")
    ] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for each answer.")
    ] = 30.0,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds that all may take.")] = 3600.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object a difference.")
    ] = False,
) -> None:
    """Play a tape to a milter again, and print what it answers otherwise."""
    import asyncio

    from milterd.lab.differences import MaskError
    from milterd.lab.link import MilterError

    with opened(tape) as reader:
        rules = _rules(mask or [], ignore or [], reader.header.redacted)
        playing = _play(reader, socket, rules, (timeout, deadline), parallel, connection)
        try:
            worst = asyncio.run(_report(playing, as_json))
        except MilterError as error:
            typer.echo(f"milterlab: {error}", err=True)
            raise typer.Exit(error.fault.value) from None
        except MaskError as error:
            raise typer.BadParameter(str(error), param_hint="--mask") from None
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="SOCKET") from None
    raise typer.Exit(worst)


def _rules(masks: list[str], ignored: list[str], redacted: bool) -> Rules:
    from milterd.lab.differences import Mask, MaskError, Rules
    from milterd.lab.redact import redact
    from milterd.lab.tape import Said

    def blanked(packet: bytes) -> bytes:
        return redact(Said(0, 0, "milter", packet, True))

    try:
        made = tuple(Mask.of(each) for each in masks)
    except MaskError as error:
        raise typer.BadParameter(str(error), param_hint="--mask") from None
    names = frozenset(each.lower().encode() for each in ignored)
    return Rules(made, names, blanked if redacted else None)


async def _play(
    reader: TapeReader,
    address: str,
    rules: Rules,
    times: tuple[float, float],
    parallel: int,
    only: int,
) -> AsyncIterator[Replayed]:
    """Each connection's result in the order of the tape; only so many are held at a time."""
    import asyncio
    from collections import deque

    from milterd.lab.link import Patience
    from milterd.lab.replay import replay as play
    from milterd.lab.tape import conversations

    loop = asyncio.get_running_loop()
    ends = loop.time() + times[1]
    under_way: deque[asyncio.Task[Replayed]] = deque()
    try:
        for each in conversations(reader):
            if not each.said or only not in (0, each.connection):
                continue
            patience = Patience(times[0], max(ends - loop.time(), 0.001))
            under_way.append(asyncio.create_task(play(each, address, rules, patience)))
            if len(under_way) == parallel:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _report(playing: AsyncIterator[Replayed], as_json: bool) -> int:
    """Print as it comes; the exit status."""
    from milterd.lab.differences import as_lines, as_values

    connections = messages = events = differences = 0
    worst = status.GOOD
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    async for done in playing:
        connections += 1
        messages += done.messages
        events += done.events
        differences += len(done.differences)
        worst = max(worst, done.worst)
        for each in done.differences:
            lines = [json.dumps(as_values(each), ensure_ascii=False)] if as_json else as_lines(each)
            for line in lines:
                typer.secho(line, fg=_COLOURS.get(line[:3]) if coloured else None)
        if sys.stderr.isatty():
            typer.echo(f"{connections} connections played\r", err=True, nl=False)
    summary = (
        f"{connections} connections, {messages} messages, {events} events: "
        f"{differences or 'no'} difference{'' if differences == 1 else 's'}"
    )
    typer.echo(summary, err=as_json)
    return worst
