"""`milterlab record`: a proxy between an MTA and a milter that writes a tape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status

if TYPE_CHECKING:
    import socket

    from milterd.base.sockets import SocketAddress
    from milterd.lab.record import Ends, Recorded
    from milterd.lab.tape import TapeWriter


def record(
    listen: Annotated[
        str,
        typer.Argument(help="Where the MTA connects: unix:PATH or inet:PORT@HOST."),
    ],
    target: Annotated[str, typer.Argument(help="The milter: unix:PATH or inet:PORT@HOST.")],
    tape: Annotated[
        Path, typer.Option(metavar="FILE", help="The tape to write; there must be no such file.")
    ],
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Blank contents and addresses; lengths are kept."),
    ] = False,
    connections: Annotated[
        int, typer.Option(min=0, help="Stop after so many connections; 0 for no limit.")
    ] = 0,
    duration: Annotated[
        float, typer.Option(min=0, help="Stop after so many seconds; 0 for no limit.")
    ] = 0.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for connections to end after a stop.")
    ] = 10.0,
    mode: Annotated[
        str, typer.Option(metavar="OCTAL", help="Permissions of a UNIX socket to listen on.")
    ] = "660",
    group: Annotated[str, typer.Option(help="Group of a UNIX socket to listen on.")] = "",
) -> None:
    """Stand between an MTA and a milter, and keep what they say on a tape.

    Ends by SIGINT or SIGTERM: connections may finish then, a second signal cuts them.
    """
    from socket import AF_UNIX

    from milterd.base import sockets
    from milterd.lab.record import Ends

    to = _address(target, "TARGET")
    permissions = _mode(mode)
    try:
        listening = sockets.listen(_address(listen, "LISTEN"), permissions, group=group)
    except sockets.SocketError as error:
        raise typer.BadParameter(str(error), param_hint="LISTEN") from None
    _say(f"listening on {_name(listening, listen)}, for {to}")
    try:
        done, writer = _recorded(listening, to, tape, redact, Ends(connections, duration, grace))
    finally:
        listening.close()
        if listening.family == AF_UNIX:
            sockets.remove(sockets.parse(listen).path)
    _say(
        f"{done.connections} connections, {writer.packets} packets, {writer.heard_octets} octets "
        f"on the wire, {writer.octets} on the tape"
    )
    raise typer.Exit(_status(done))


def _recorded(
    listening: socket.socket, target: SocketAddress, path: Path, redact: bool, ends: Ends
) -> tuple[Recorded, TapeWriter]:
    import asyncio

    from milterd.lab.redact import redact as blank
    from milterd.lab.tape import create

    done = None
    try:
        with create(path, blank if redact else None) as writer:
            done = asyncio.run(_run(listening, target, writer, ends))
    except FileExistsError:
        message = f"{path} is there already: give another name, or remove it"
        raise typer.BadParameter(message, param_hint="--tape") from None
    except OSError as error:
        if done is None:
            why = error.strerror or error
            raise typer.BadParameter(f"{path}: {why}", param_hint="--tape") from None
        # Only the last words of the tape are missing, yet it is not whole.
        done.failure = error
        _say(f"{path}: the tape takes no more: {error.strerror or error}")
    return done, writer


async def _run(
    listening: socket.socket, target: SocketAddress, tape: TapeWriter, ends: Ends
) -> Recorded:
    import asyncio
    import signal

    from milterd.lab.record import Recorder

    recorder = Recorder(target, tape, _say, ends)

    def signalled() -> None:
        (recorder.hurry if recorder.stop.is_set() else recorder.stop).set()

    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, signalled)
    return await recorder.run(listening)


def _status(done: Recorded) -> int:
    if done.cut:
        _say(f"{done.cut} connections were cut at the end")
    if done.unreached:
        _say(f"{done.unreached} connections found no milter")
        return status.GONE
    return status.USAGE if done.failure is not None else status.GOOD


def _say(text: str) -> None:
    typer.echo(f"milterlab: {text}", err=True)


def _address(text: str, option: str) -> SocketAddress:
    from milterd.base.sockets import parse

    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint=option) from None


def _name(listening: socket.socket, given: str) -> str:
    """The address, with the port that was found for port 0."""
    from socket import AF_UNIX

    if listening.family == AF_UNIX:
        return given
    host, port, *_ = listening.getsockname()
    return f"inet:{port}@{host}"


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise typer.BadParameter(f"{text!r} is no octal mode like 660", param_hint="--mode")
    return mode
