"""Function calls that a mail costs a worker: python -m tests.bench.calls [--filters] [--one-each]
[--most 40].

The steady measure beside those of time: what else the machine does has no part in it.  One worker
is started with tests/bench/profiled in PYTHONPATH, where Python finds a sitecustomize that counts
calls between two signals; nothing of it is in the product.  What a builtin or a module of Python
is called for belongs to the stage that called it.
"""

from __future__ import annotations

import os
import pstats
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import typer

from tests.bench.case import Case
from tests.bench.cost import family
from tests.bench.load import mails_of, send, taken
from tests.bench.servers import Side, ours, sink
from tests.bench.stages import REST, stage_of
from tests.peers.process import Peer, directory, wait_for

PROFILED = Path(__file__).parent / "profiled"
_DEPTH = 6
"""Callers of callers that are looked at for a stage."""

Function = tuple[str, int, str]
Called = tuple[int, int, float, float]
Stats = Mapping[Function, tuple[int, int, float, float, Mapping[Function, Called]]]


@dataclass(frozen=True)
class Calls:
    """What `mails` cost one worker."""

    mails: int
    stats: Stats

    def a_mail(self) -> float:
        """Calls."""
        return sum(each[1] for each in self.stats.values()) / self.mails

    def stages(self) -> dict[str, tuple[float, float]]:
        """Calls and milliseconds a mail by stage; the milliseconds are the profiler's too."""
        calls, seconds = Counter[str](), Counter[str]()
        for function, (_, count, own, _, _) in self.stats.items():
            for stage, share in self._shares(function, _DEPTH).items():
                calls[stage] += count * share  # type: ignore[assignment]  # parts of calls
                seconds[stage] += own * share  # type: ignore[assignment]
        return {
            stage: (count / self.mails, seconds[stage] / self.mails * 1000)
            for stage, count in calls.most_common()
        }

    def _shares(self, function: Function, depth: int) -> dict[str, float]:
        """The parts of a function's calls that are each stage's."""
        stage = stage_of(function[0])
        if stage:
            return {stage: 1.0}
        callers = self.stats[function][4]
        total = sum(each[1] for each in callers.values())
        if not depth or not total:
            return {REST: 1.0}
        found = Counter[str]()
        for caller, called in callers.items():
            for stage, share in self._shares(caller, depth - 1).items():
                found[stage] += share * called[1] / total  # type: ignore[assignment]
        return cast(dict[str, float], found)


def count(mails: int, *, filters: bool = False, kept: bool = True, size: int = 4096) -> Calls:
    """Have one worker take and deliver so many mails over 20 connections at a time, and count; not
    `kept`, each mail has one of its own."""
    with directory("calls") as home, sink() as (port, peer):
        environ = {"PYTHONPATH": str(PROFILED), "GATEPOST_CALLS": str(home / "calls")}
        with ours(filters, port, 1, environ=environ) as side:
            case = Case(size, mails, 20, filters, kept)
            _through(replace(case, mails=200), side, peer, home)
            (worker,) = _workers(side)
            os.kill(worker, signal.SIGUSR1)
            _through(case, side, peer, home)
            os.kill(worker, signal.SIGUSR2)
            written = home / f"calls.{worker}"
            wait_for(written.exists, "the worker has written its calls")
            stats = cast(Stats, pstats.Stats(str(written)).stats)  # type: ignore[attr-defined]
            return Calls(mails_of(case), stats)


def _workers(side: Side) -> list[int]:
    found = family(side.roots())
    return [pid for pid in found if b"smtpgw.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _through(case: Case, side: Side, peer: Peer, home: Path) -> None:
    before = taken(peer)
    send(case, side.port, home)
    wait_for(lambda: taken(peer) >= before + mails_of(case), "all delivered", within=120)


def main(
    filters: Annotated[bool, typer.Option("--filters", help="With three filters.")] = False,
    one_each: Annotated[
        bool, typer.Option("--one-each", help="A connection for each mail.")
    ] = False,
    mails: Annotated[int, typer.Option(min=20)] = 500,
    most: Annotated[int, typer.Option(help="Functions to list.")] = 30,
) -> None:
    """Print calls a mail by stage, and the functions that are called most."""
    found = count(mails, filters=filters, kept=not one_each)
    case = Case(4096, mails, 20, filters, not one_each)
    print(f"{found.a_mail():.0f} calls a mail: {case}\n")
    print("| stage | calls a mail | ms under the profiler |\n|---|---|---|")
    for stage, (calls, milliseconds) in found.stages().items():
        print(f"| {stage} | {calls:.0f} | {milliseconds:.2f} |")
    print("\n| function | calls a mail | us a mail |\n|---|---|---|")
    by_calls = sorted(found.stats.items(), key=lambda each: -each[1][1])
    for (path, line, name), (_, calls, own, _, _) in by_calls[:most]:
        where = "" if path == "~" else f" {'/'.join(Path(path).parts[-2:])}:{line}"
        print(f"| `{name}`{where} | {calls / mails:.1f} | {own / mails * 1e6:.0f} |")


if __name__ == "__main__":
    typer.run(main)
