"""The whole road, us against Debian's Postfix with C milters: python -m tests.bench.road [--quick].

Both take the same mail from smtp-source(1) and deliver it by LMTP to the same smtp-sink(1).
Turns run A B C A B C, C being plain aiosmtpd, the floor; and only ratios count: an absolute rate
says more about the machine and the hour.  Rows go to var/bench.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.bench import case as cases
from tests.bench.case import CASES, QUICK, Case, Row
from tests.bench.cost import cpu, peak
from tests.bench.load import mails_of, send, taken
from tests.bench.probe import Probe, probing, quantile
from tests.bench.servers import Side, chain, floor, ours, scanner, sink, theirs
from tests.peers.process import Peer, directory, wait_for

Run = Mapping[str, float]
"""What one run came to, by metric."""
SHOWN = ("accepted/s", "delivered/s", "CPU s for 1000", "p50 ms", "p99 ms", "MiB")
BESIDE = " beside aiosmtpd"
FLOOR = ("accepted/s", "CPU s for 1000")
"""What of the floor is compared with ours: it delivers nothing."""


def _accept(case: Case, side: Side, home: Path) -> list[float]:
    """Send all mails of the case; how long the probe's dots took."""
    if case.connections > 1:
        with probing(side.port, case.size, tls=case.tls) as probe:
            send(case, side.port, home)
        return probe.seconds
    seconds: list[float] = []
    probe = Probe(side.port, case.size, tls=case.tls)
    for _ in range(case.mails):
        probe.mail()
    probe.close()
    return seconds + probe.seconds


def load(case: Case, side: Side, sink_of: Peer | None) -> Run:
    """One run; `sink_of` counts what is delivered, if anything is."""
    before, used = taken(sink_of) if sink_of else 0, cpu(side.roots())
    with directory("source") as home, peak(side.roots) as most:
        began = time.monotonic()
        seconds = _accept(case, side, home)
        accepted = time.monotonic() - began
        mails = len(seconds) + (mails_of(case) if case.connections > 1 else 0)
        if sink_of is not None:
            wait_for(lambda: taken(sink_of) >= before + mails, "all delivered", within=600)
        took = time.monotonic() - began
    return {
        "accepted/s": mails / accepted,
        "delivered/s": mails / took,
        "CPU s for 1000": (cpu(side.roots()) - used) / mails * 1000,
        "p50 ms": quantile(seconds, 0.5),
        "p99 ms": quantile(seconds, 0.99),
        "MiB": max(most),
    }


def measure(case: Case, pairs: int, say: Console) -> list[Row]:
    """The rows of one case."""
    runs: dict[str, list[Run]] = {"ours": [], "postfix": [], "aiosmtpd": []}
    with ExitStack() as stack:
        port, peer = stack.enter_context(sink())
        clam = stack.enter_context(scanner()) if case.filters else None
        tls = stack.enter_context(chain()) if case.tls else None
        sides = {
            "ours": stack.enter_context(
                ours(case.filters, port, clam=clam, tls=tls, sockets=case.sockets)
            ),
            "postfix": stack.enter_context(theirs(case.filters, port, clam=clam, tls=tls)),
            "aiosmtpd": stack.enter_context(floor(tls)),
        }
        # Caches and connections are warmed, uncounted.
        warm = replace(case, mails=max(case.connections, case.mails // 10))
        for name, side in sides.items():
            load(warm, side, None if name == "aiosmtpd" else peer)
        for number in range(pairs):
            for name, side in sides.items():
                runs[name].append(load(case, side, None if name == "aiosmtpd" else peer))
                told = ", ".join(f"{key} {value:.4g}" for key, value in runs[name][-1].items())
                say.print(f"  pair {number + 1} {name}: {told}")
    rows = [_row(case, each, runs["ours"], runs["postfix"]) for each in SHOWN]
    return rows + [_row(case, each, runs["ours"], runs["aiosmtpd"], BESIDE) for each in FLOOR]


def _row(
    case: Case, metric: str, ours: Sequence[Run], others: Sequence[Run], beside: str = ""
) -> Row:
    a, b = ([each[metric] for each in side] for side in (ours, others))
    ratio = statistics.median(one / other for one, other in zip(a, b, strict=True))
    return case.row(metric + beside, statistics.median(a), statistics.median(b), ratio)


def table(measured: Mapping[Case, Sequence[Row]]) -> Table:
    """A line a case: each figure as the ratio, and ours and theirs behind it."""
    shown = Table("mail", *SHOWN, "/s: aiosmtpd", "CPU: aiosmtpd", title="ratio (ours, Postfix)")
    for case, rows in measured.items():
        cells = [f"{each.ratio:.2f} ({each.ours:.4g}, {each.postfix:.4g})" for each in rows]
        shown.add_row(str(case), *cells)
    return shown


def main(
    pairs: Annotated[int, typer.Option(help="Pairs a case.", min=1)] = 5,
    only: Annotated[list[int] | None, typer.Option(help="Cases by number, from 0.")] = None,
    share: Annotated[float, typer.Option(help="This part of each case's mails.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Six cases, a pair each: about two minutes.")
    ] = False,
) -> None:
    """Measure, print a table, write var/bench.json."""
    if quick:
        pairs, only, share = 1, only or list(QUICK), min(share, 0.4)
    say, measured = Console(stderr=True), dict[Case, Sequence[Row]]()
    for number, case in enumerate(CASES):
        if only is None or number in only:
            say.print(f"{number}: {case}")
            some = replace(case, mails=max(case.connections, int(case.mails * share)))
            measured[case] = measure(some, pairs, say)
    cases.keep(row for rows in measured.values() for row in rows)
    Console(width=190).print(table(measured))


if __name__ == "__main__":
    typer.run(main)
