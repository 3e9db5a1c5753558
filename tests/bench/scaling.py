"""What the machine lets anyone reach: python -m tests.bench.scaling.

Two tables.  One worker against two, without filters: rates of both, and where the processor time
of a mail goes, the generators and the sink included, as they run on the same processors.  And the
ceiling: what a side could reach that costs nothing itself, so that only the generators, the sink,
clamd and the signatures are paid for, against all that Postfix costs.  Rows go to var/bench.json.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated

import typer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.bench.case import Case, Row, keep
from tests.bench.cost import by_program
from tests.bench.load import mails_of, send, taken
from tests.bench.servers import Side, ours, sink, theirs
from tests.peers.process import Peer, directory, wait_for

WORKERS = Case(4_096, 2_000, 40, filters=False)
CEILINGS = (
    Case(4_096, 1_000, 20, filters=True),
    Case(100_000, 300, 20, filters=True),
    Case(10_000_000, 20, 20, filters=True),
    Case(4_096, 1_000, 20, filters=False),
    Case(100_000, 300, 20, filters=False),
    Case(10_000_000, 20, 20, filters=False),
)
GENERATOR, SINK, SCANNER = "generators", "sink", "clamd"
_SIGNATURES = 300


@dataclass(frozen=True)
class Spent:
    """Rates, and milliseconds of processor time a mail by what spent them."""

    accepted: float
    delivered: float
    ms: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.ms.values())


def _programs(side: Side, peer: Peer) -> dict[str, float]:
    """Seconds until now by program, those of generators that have ended included."""
    times = os.times()
    found = {GENERATOR: times.children_user + times.children_system}
    return found | by_program(side.roots()) | {SINK: sum(by_program([peer.pid]).values())}


def spend(case: Case, side: Side, peer: Peer) -> Spent:
    """One run, with nothing but its generators."""
    mails, before = mails_of(case), taken(peer)
    with directory("source") as home:
        used, began = _programs(side, peer), time.monotonic()
        send(case, side.port, home)
        accepted = time.monotonic() - began
        wait_for(lambda: taken(peer) >= before + mails, "all delivered", within=600)
        delivered = time.monotonic() - began
    now = _programs(side, peer)
    ms = {name: (now[name] - used.get(name, 0.0)) / mails * 1000 for name in now}
    return Spent(mails / accepted, mails / delivered, {k: v for k, v in ms.items() if v >= 0.005})


def _warmed(case: Case, side: Side, peer: Peer) -> Side:
    spend(replace(case, mails=max(case.connections, case.mails // 10)), side, peer)
    return side


def workers(pairs: int, share: float) -> list[Row]:
    """Two workers against one."""
    case = replace(WORKERS, mails=int(WORKERS.mails * share))
    runs: dict[int, list[Spent]] = {1: [], 2: []}
    with sink() as (port, peer), ours(False, port, 1) as one, ours(False, port, 2) as two:
        sides = {1: _warmed(case, one, peer), 2: _warmed(case, two, peer)}
        for _ in range(pairs):
            for count, side in sides.items():
                runs[count].append(spend(case, side, peer))
    print("| workers | accepted/s | delivered/s | ms a mail | of them |\n|---|---|---|---|---|")
    for count, those in runs.items():
        _say(str(count), those)
    rates = {
        "accepted/s": {count: [each.accepted for each in those] for count, those in runs.items()},
        "delivered/s": {count: [each.delivered for each in those] for count, those in runs.items()},
    }
    rows = []
    for metric, by_count in rates.items():
        ratio = statistics.median(b / a for a, b in zip(by_count[1], by_count[2], strict=True))
        both, alone = (statistics.median(by_count[count]) for count in (2, 1))
        rows.append(case.row(f"{metric}, two workers beside one", both, alone, ratio))
        print(f"\n{metric}: two workers give {ratio:.2f} times one")
    cap = _cores() * 1000 / statistics.median(each.total for each in runs[2])
    single = statistics.median(rates["delivered/s"][1])
    print(
        f"all {_cores()} processors would do {cap:.0f} mails a second with generators and sink"
        f" beside: {cap / single:.2f} times one worker, the most that could be seen here"
    )
    return [*rows, case.row("cap of two workers beside one", cap, single, cap / single)]


def _say(name: str, those: Sequence[Spent]) -> None:
    programs = {each for one in those for each in one.ms}
    parts = {
        each: statistics.median(one.ms.get(each, 0.0) for one in those) for each in sorted(programs)
    }
    told = ", ".join(f"{each} {ms:.2f}" for each, ms in sorted(parts.items(), key=lambda x: -x[1]))
    accepted = statistics.median(each.accepted for each in those)
    delivered = statistics.median(each.delivered for each in those)
    total = statistics.median(each.total for each in those)
    print(f"| {name} | {accepted:.0f} | {delivered:.0f} | {total:.2f} | {told} |")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def signature() -> float:
    """Milliseconds of processor time of one RSA-2048 signature, by OpenSSL."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    began = time.process_time()
    for number in range(_SIGNATURES):
        key.sign(b"%d" % number, padding.PKCS1v15(), hashes.SHA256())
    return (time.process_time() - began) / _SIGNATURES * 1000


def ceiling(share: float, runs: int) -> list[Row]:
    """Postfix's cost beside what nobody can do without."""
    rows = []
    print(
        "| mail, Postfix | accepted/s | delivered/s | ms a mail | of them |\n|---|---|---|---|---|"
    )
    told = []
    for each in CEILINGS:
        case = replace(each, mails=max(each.connections, int(each.mails * share)))
        with ExitStack() as stack:
            port, peer = stack.enter_context(sink())
            side = stack.enter_context(theirs(case.filters, port))
            _warmed(case, side, peer)
            spent = [spend(case, side, peer) for _ in range(runs)]
        _say(str(case), spent)
        needed = {
            name: statistics.median(one.ms.get(name, 0.0) for one in spent)
            for name in (GENERATOR, SINK, SCANNER)
        }
        needed["signature"] = signature() if case.filters else 0.0
        least, theirs_all = sum(needed.values()), statistics.median(one.total for one in spent)
        parts = " + ".join(f"{ms:.2f}" for ms in needed.values())
        told.append(
            f"| {case} | {parts} = {least:.2f} | {theirs_all:.2f} | {theirs_all / least:.1f} |"
        )
        cap = _cores() * 1000 / least
        rows.append(
            case.row("ceiling: mails/s", cap, _cores() * 1000 / theirs_all, theirs_all / least)
        )
    what = f"{GENERATOR} + {SINK} + {SCANNER} + signature, ms"
    print(f"\n| mail | {what} | Postfix's side, ms | ceiling |")
    print("|---|---|---|---|", *told, sep="\n")
    return rows


def main(
    pairs: Annotated[int, typer.Option(help="Runs of each side.", min=1)] = 5,
    share: Annotated[float, typer.Option(help="This part of each case's mails.")] = 1.0,
) -> None:
    """Print both tables, and put their rows into var/bench.json."""
    keep(workers(pairs, share))
    print()
    keep(ceiling(share, pairs))


if __name__ == "__main__":
    typer.run(main)
