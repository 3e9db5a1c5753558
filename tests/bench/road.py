"""The whole road, us against Debian's Postfix with C milters: python -m tests.bench.road.

Both take the same mail from smtp-source(1) and deliver it by LMTP to the same smtp-sink(1).
Pairs run A B A B, and only ratios count: an absolute rate says more about the machine and the
hour.  Several smtp-sources send at once, each with a body of its own, and each mail has its own
Message-ID.  Rows go to var/bench.json.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.bench.cost import cpu, memory
from tests.bench.probe import Probe, probing, quantile
from tests.bench.servers import Side, floor, ours, sink, theirs
from tests.peers.process import Peer, directory, program, wait_for

OUT = Path(__file__).parents[2] / "var" / "bench.json"
SOURCES = 10
"""Generators at once, at most, each with a body of its own."""
_COUNT = re.compile(rb"mesg=(\d+)")


@dataclass(frozen=True)
class Row:
    """One figure of one case: the medians of both sides, and the median of the ratios."""

    size: int
    connections: int
    filters: bool
    kept: bool
    tls: bool
    metric: str
    ours: float
    postfix: float
    ratio: float


@dataclass(frozen=True)
class Case:
    """What is measured: `mails` of `size` octets over `connections` at a time."""

    size: int
    mails: int
    connections: int
    filters: bool
    kept: bool = True

    def __str__(self) -> str:
        size = f"{self.size // 1000} kB" if self.size < 1_000_000 else f"{self.size // 10**6} MB"
        filters = "three filters" if self.filters else "no filters"
        kept = "" if self.kept else ", a connection a mail"
        return f"{size}, {self.connections} connections, {filters}{kept}"


CASES = (
    Case(4_096, 1_500, 20, filters=True),
    Case(100_000, 500, 20, filters=True),
    Case(10_000_000, 40, 20, filters=True),
    Case(4_096, 300, 1, filters=True),
    Case(4_096, 2_000, 200, filters=True),
    Case(4_096, 1_000, 20, filters=True, kept=False),
    Case(4_096, 2_000, 20, filters=False),
    Case(100_000, 600, 20, filters=False),
    Case(4_096, 300, 1, filters=False),
    Case(4_096, 1_000, 20, filters=False, kept=False),
)

FLOOR = 6
"""The case that plain aiosmtpd is measured by."""


@dataclass(frozen=True)
class Run:
    """What one run came to, by metric."""

    figures: dict[str, float]


def _taken(peer: Peer) -> int:
    """How many mails the sink has counted."""
    counts = _COUNT.findall(peer.log.read_bytes()[-200:])
    return int(counts[-1]) if counts else 0


def _sources(case: Case, port: int, home: Path) -> list[subprocess.Popen[bytes]]:
    """The generators, at work; together they send the case's mails."""
    count = min(SOURCES, case.connections)
    started = []
    for number in range(count):
        body = home / f"body{number}"
        line = os.urandom(35).hex().encode() + b"\n"
        text = b"".join(b"%d %b" % (at, line) for at in range(case.size // 75 + 1))[: case.size]
        head = b"From: <a@example.net>\nTo: <u@example.net>\nSubject: %d\n\n" % number
        body.write_bytes(head + text)
        command = [program("smtp-source", "postfix"), "-s", str(case.connections // count)]
        command += ["-m", str(case.mails // count), "-F", str(body)]
        command += ["-d"] if case.kept else []
        command += ["-f", "a@example.net", "-t", "u@example.net", f"127.0.0.1:{port}"]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    return started


def _send(case: Case, port: int, home: Path) -> None:
    """Returns with the last 250."""
    for each in _sources(case, port, home):
        if each.wait(600):
            raise RuntimeError(f"{case}: smtp-source failed")


def _load(case: Case, side: Side, sink_of: Peer) -> Run:
    before, used = _taken(sink_of), cpu(side.roots())
    mails = case.mails // min(SOURCES, case.connections) * min(SOURCES, case.connections)
    with directory("source") as home:
        began = time.monotonic()
        if case.connections == 1:
            probe = Probe(side.port, case.size)
            for _ in range(case.mails):
                probe.mail()
            probe.close()
            accepted = time.monotonic() - began
        else:
            with probing(side.port, case.size) as probe:
                _send(case, side.port, home)
                accepted = time.monotonic() - began
            mails += len(probe.seconds)
        most = memory(side.roots())
        wait_for(lambda: _taken(sink_of) >= before + mails, "all delivered", within=600)
        took = time.monotonic() - began
    return Run({
        "accepted/s": mails / accepted,
        "delivered/s": mails / took,
        "CPU s for 1000": (cpu(side.roots()) - used) / mails * 1000,
        "p50 ms": quantile(probe.seconds, 0.5),
        "p99 ms": quantile(probe.seconds, 0.99),
        "MiB": most,
    })  # fmt: skip


def measure(case: Case, pairs: int, say: Console) -> list[Row]:
    """The rows of one case."""
    runs: dict[str, list[Run]] = {"ours": [], "postfix": []}
    with ExitStack() as stack:
        sink_port, peer = stack.enter_context(sink())
        sides = {
            "ours": stack.enter_context(ours(case.filters, sink_port)),
            "postfix": stack.enter_context(theirs(case.filters, sink_port)),
        }
        # Caches and connections are warmed, uncounted.
        warm = replace(case, mails=max(case.connections, case.mails // 10))
        for each in sides.values():
            _load(warm, each, peer)
        for number in range(pairs):
            for name, side in sides.items():
                runs[name].append(_load(case, side, peer))
                told = ", ".join(
                    f"{key} {value:.4g}" for key, value in runs[name][-1].figures.items()
                )
                say.print(f"  pair {number + 1} {name}: {told}")
    return [_row(case, metric, runs) for metric in runs["ours"][0].figures]


def _row(case: Case, metric: str, runs: dict[str, list[Run]]) -> Row:
    a, b = ([each.figures[metric] for each in runs[side]] for side in ("ours", "postfix"))
    ratio = statistics.median(one / other for one, other in zip(a, b, strict=True))
    medians = (round(statistics.median(each), 2) for each in (a, b))
    facts = (case.size, case.connections, case.filters, case.kept, False)
    return Row(*facts, metric, *medians, round(ratio, 2))


def against_floor(case: Case, pairs: int) -> Row:
    """Our rate without filters over that of plain aiosmtpd, which does nothing with a mail."""
    rates: dict[str, list[float]] = {"ours": [], "floor": []}
    with ExitStack() as stack:
        sink_port, _ = stack.enter_context(sink())
        sides = {
            "ours": stack.enter_context(ours(False, sink_port)),
            "floor": stack.enter_context(floor()),
        }
        home = stack.enter_context(directory("source"))
        for _ in range(pairs):
            for name, side in sides.items():
                began = time.monotonic()
                _send(case, side.port, home)
                rates[name].append(case.mails / (time.monotonic() - began))
    a, b = (statistics.median(rates[each]) for each in ("ours", "floor"))
    ratio = statistics.median(x / y for x, y in zip(rates["ours"], rates["floor"], strict=True))
    facts = (case.size, case.connections, case.filters, case.kept, False)
    return Row(*facts, "accepted/s, aiosmtpd beside", round(a, 2), round(b, 2), round(ratio, 2))


def _table(rows: list[Row]) -> Table:
    table = Table("mail", "conn.", "filters", "kept", "metric", "ours", "postfix", "ratio")
    for each in rows:
        words = "three" if each.filters else "none", "yes" if each.kept else "no"
        cells = (each.size, each.connections, *words, each.metric, each.ours, each.postfix)
        table.add_row(*map(str, cells), f"{each.ratio:.2f}")
    return table


def main(
    pairs: Annotated[int, typer.Option(help="Pairs a case.", min=1)] = 5,
    only: Annotated[
        list[int] | None,
        typer.Option(help="Cases by number, from 0; the one after the last is plain aiosmtpd."),
    ] = None,
    share: Annotated[float, typer.Option(help="This part of each case's mails.")] = 1.0,
) -> None:
    """Measure, print a table, write var/bench.json."""
    say, rows = Console(stderr=True), list[Row]()
    cases = [replace(each, mails=max(each.connections, int(each.mails * share))) for each in CASES]
    for number, case in enumerate(cases):
        if only and number not in only:
            continue
        say.print(f"{number}: {case}")
        rows += measure(case, pairs, say)
    if not only or len(cases) in only:
        rows.append(against_floor(cases[FLOOR], pairs))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    Console(width=110).print(_table(rows))


if __name__ == "__main__":
    typer.run(main)
