"""The whole road, us against Debian's Postfix with C milters: python -m tests.bench.road.

Both take the same mail from smtp-source(1), ask clamd and a DKIM signer about it, put
it on disk before they say 250, and deliver it by LMTP to the same smtp-sink(1).
Postfix syncs each queue file; the gateway commits with synchronous=FULL, one commit
for all who wait.  Pairs run A B A B, and only ratios count: an absolute rate says more
about the machine and the hour.  Rows go to var/bench.json.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.crash.town import town
from tests.peers.clamav_milter import clamav_milter
from tests.peers.clamd import clamd
from tests.peers.opendkim import opendkim
from tests.peers.postfix import postfix
from tests.peers.process import Peer, answers, daemon, directory, free_port, program, wait_for

OUT = Path(__file__).parents[2] / "var" / "bench.json"
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


CASES = (
    Case(4_096, 1_500, 20, filters=True),
    Case(100_000, 500, 20, filters=True),
    Case(4_096, 2_000, 20, filters=False),
    Case(100_000, 600, 20, filters=False),
)


@contextmanager
def _sink() -> Iterator[tuple[int, Peer]]:
    """smtp-sink by LMTP, which counts and throws away."""
    with directory("sink") as home:
        port = free_port()
        command = [program("smtp-sink", "postfix"), "-u", "nobody", "-L", "-c"]
        command += [f"127.0.0.1:{port}", "1000"]
        with daemon("smtp-sink", command, home, lambda: answers(port, b"220 ")) as peer:
            yield port, peer


def _taken(peer: Peer) -> int:
    """How many mails the sink has counted."""
    counts = _COUNT.findall(peer.log.read_bytes()[-200:])
    return int(counts[-1]) if counts else 0


def _send(case: Case, port: int, sink: Peer) -> tuple[float, float]:
    """Mails a second accepted, and delivered."""
    before = _taken(sink)
    command = [program("smtp-source", "postfix"), "-s", str(case.connections)]
    command += ["-m", str(case.mails), "-l", str(case.size), *(["-d"] if case.kept else [])]
    command += ["-f", "a@example.net", "-t", "u@example.net", f"127.0.0.1:{port}"]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    accepted = time.monotonic() - began
    wait_for(lambda: _taken(sink) >= before + case.mails, "all delivered", within=600)
    return case.mails / accepted, case.mails / (time.monotonic() - began)


@contextmanager
def _ours(filters: bool, sink_port: int) -> Iterator[int]:
    """Both daemons; the port that takes mail."""
    delivery = f"lmtp:inet:127.0.0.1:{sink_port}"
    with town(delivery=delivery, filters=filters, deliveries=500) as place:
        for each in place.daemons:
            each.start()
        place.wait_until_up()
        yield place.port


@contextmanager
def _theirs(filters: bool, sink_port: int) -> Iterator[int]:
    """Postfix, with clamav-milter and OpenDKIM if there are to be filters."""
    main = {
        "default_transport": f"lmtp:inet:127.0.0.1:{sink_port}",
        "lmtp_destination_concurrency_limit": "20",
    }
    with ExitStack() as stack:
        mta = stack.enter_context(postfix(main))
        if filters:
            # Below the queue directory, where the chrooted smtpd finds them.
            homes = [mta.queue / "clamav-milter", mta.queue / "opendkim"]
            for each in homes:
                each.mkdir(mode=0o755)
            scanner = stack.enter_context(clamd(stack.enter_context(directory("clamd"))))
            scan = stack.enter_context(clamav_milter(homes[0], scanner))
            sign = stack.enter_context(opendkim(homes[1]))
            paths = [each.socket.relative_to(mta.queue) for each in (scan, sign)]
            mta.set({"smtpd_milters": ", ".join(f"unix:{each}" for each in paths)})
            wait_for(lambda: answers(mta.port, b"220 "), "postfix answers again")
        yield mta.port


def measure(case: Case, pairs: int, say: Console) -> list[Row]:
    """The rows of one case."""
    rates: dict[str, list[tuple[float, float]]] = {"ours": [], "postfix": []}
    with ExitStack() as stack:
        sink_port, sink = stack.enter_context(_sink())
        ports = {
            "ours": stack.enter_context(_ours(case.filters, sink_port)),
            "postfix": stack.enter_context(_theirs(case.filters, sink_port)),
        }
        for side, port in ports.items():  # warm caches and connections, uncounted
            _send(replace(case, mails=max(case.connections, case.mails // 10)), port, sink)
            say.print(f"  {side} is warm")
        for number in range(pairs):
            for side, port in ports.items():
                rates[side].append(_send(case, port, sink))
                accepted, delivered = rates[side][-1]
                say.print(f"  pair {number + 1} {side}: {accepted:.0f}/s in, {delivered:.0f}/s out")
    return [
        _row(case, metric, at, rates) for at, metric in enumerate(("accepted/s", "delivered/s"))
    ]


def _row(case: Case, metric: str, at: int, rates: dict[str, list[tuple[float, float]]]) -> Row:
    ours, theirs = ([each[at] for each in rates[side]] for side in ("ours", "postfix"))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    medians = (round(statistics.median(each), 1) for each in (ours, theirs))
    facts = (case.size, case.connections, case.filters, case.kept, False)
    return Row(*facts, metric, *medians, round(ratio, 2))


def _table(rows: list[Row]) -> Table:
    table = Table("octets", "connections", "filters", "metric", "ours", "postfix", "ratio")
    for each in rows:
        cells = (each.size, each.connections, "three" if each.filters else "none", each.metric)
        table.add_row(*map(str, cells), f"{each.ours:.0f}", f"{each.postfix:.0f}", f"{each.ratio}")
    return table


def main(pairs: Annotated[int, typer.Option(help="Pairs a case.", min=1)] = 3) -> None:
    """Measure every case, print a table, write var/bench.json."""
    say, rows = Console(stderr=True), []
    for case in CASES:
        filters = "three filters" if case.filters else "no filters"
        say.print(f"{case.size} octets, {case.connections} connections, {filters}")
        rows += measure(case, pairs, say)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    Console().print(_table(rows))


if __name__ == "__main__":
    typer.run(main)
