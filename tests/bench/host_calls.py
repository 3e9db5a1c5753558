"""Function calls that a mail costs a filter's process: python -m tests.bench.host_calls.

The native host's connection is fed a mail's octets again and again, in this process and without a
socket; what the event loop and the kernel do is no part of it.  The log's line and the counts are.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from milterd.base import logs
from milterd.core.filter import Filter
from milterd.core.mail import Family
from milterd.filter_process import PrometheusMeter
from milterd.filters.dkim import DkimFilter, DkimOptions, SigningKey
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.host.connection import Connection
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.wire import messages as m
from milterd.wire.mta import MtaConnection
from tests.bench.hosts import message, write_key
from tests.peers.process import directory

Stats = Mapping[tuple[str, int, str], tuple[int, int, float, float, object]]
WARM = 50


class _Deaf(asyncio.Transport):
    """Keeps what was written last."""

    octets = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.octets = bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        """Nobody waits for it."""


def _filter(name: str, home: Path) -> Filter[object]:
    if name == "headers":
        parameters = {"authserv_id": ("mx.example.net",), "hostname": ("mx.example.net",)}
        return cast("Filter[object]", HeadersFilter(HeadersOptions(parameters=parameters)))
    key = home / "key.pem"
    write_key(key)
    row = SigningKey("example.net", "s", key)
    return cast("Filter[object]", DkimFilter(DkimOptions(signing_table=(row,))))


async def _profiled(judge: Judge, around: Surroundings, size: int, mails: int) -> Stats:
    connection, transport = Connection(judge, around, None, lambda: None), _Deaf()
    connection.connection_made(transport)
    wire = MtaConnection()
    connection.data_received(wire.negotiate())
    wire.receive(transport.octets)
    connection.data_received(wire.send(m.Connect(b"localhost", Family.INET, 25, b"127.0.0.1")))
    octets = message(wire, size)
    connection.data_received(octets)
    if not wire.receive(transport.octets):
        raise RuntimeError("no answer")
    again = wire.send(m.Abort()) + octets  # as a gateway sends it, in one piece
    profile = cProfile.Profile()
    for number in range(WARM + mails):
        if number == WARM:
            profile.enable()
        connection.data_received(again)
    profile.disable()
    return cast(Stats, pstats.Stats(profile).stats)  # type: ignore[attr-defined]


async def _sessions(judge: Judge, around: Surroundings, sessions: int) -> Stats:
    """Sessions without a mail: negotiation, CONNECT, HELO and QUIT."""
    wire, hello, profile = MtaConnection(), b"", cProfile.Profile()
    offer = wire.negotiate()
    for number in range(WARM + sessions):
        if number == WARM:
            profile.enable()
        connection, transport = Connection(judge, around, None, lambda: None), _Deaf()
        connection.connection_made(transport)
        connection.data_received(offer)
        if not hello:
            wire.receive(transport.octets)
            client = m.Connect(b"localhost", Family.INET, 25, b"127.0.0.1")
            macros = ((b"j", b"mx.example.net"), (b"{daemon_name}", b"smtp"))
            hello = wire.send(client, macros) + wire.send(m.Helo(b"localhost"))
            hello += wire.send(m.Quit())
        connection.data_received(hello)
        connection.connection_lost(None)
    profile.disable()
    return cast(Stats, pstats.Stats(profile).stats)  # type: ignore[attr-defined]


def calls(name: str, size: int = 4_000, mails: int = 200) -> tuple[float, Stats]:
    """Calls for a mail of `size` octets and ten fields in the filter `name`, and all of them."""
    return _counted(name, lambda judge, around: _profiled(judge, around, size, mails), mails)


def session_calls(name: str, sessions: int = 200) -> tuple[float, Stats]:
    """The same for a session without a mail."""
    return _counted(name, lambda judge, around: _sessions(judge, around, sessions), sessions)


def _counted(
    name: str, run: Callable[[Judge, Surroundings], Coroutine[None, None, Stats]], times: int
) -> tuple[float, Stats]:
    with directory("calls") as home, (home / "log").open("w") as log:
        logs.setup("json", "info", log, daemon="milterd")
        try:
            log_line = logs.get("filter").bind()
            around = Surroundings(log_line, lambda: "", PrometheusMeter(name))
            judge = Judge(_filter(name, home), Options(threads=0), around)
            stats = asyncio.run(run(judge, around))
        finally:
            logs.flush()
            logs.setup()
    return sum(each[1] for each in stats.values()) / times, stats


def main(
    most: Annotated[int, typer.Option(help="Functions to list.")] = 20,
    size: Annotated[int, typer.Option(help="Octets of a body.")] = 4_000,
) -> None:
    """Print calls a mail of each filter that the native host has by default."""
    for name in ("headers", "dkim"):
        count, stats = calls(name, size)
        session, _ = session_calls(name)
        print(f"\n{name}: {count:.0f} calls a mail, {session:.0f} a session\n")
        print("| function | calls a mail |\n|---|---|")
        by_calls = sorted(stats.items(), key=lambda each: -each[1][1])
        for (path, line, function), each in by_calls[:most]:
            where = "" if path == "~" else f" {'/'.join(Path(path).parts[-2:])}:{line}"
            print(f"| `{function}`{where} | {each[1] / 200:.1f} |")


if __name__ == "__main__":
    typer.run(main)
