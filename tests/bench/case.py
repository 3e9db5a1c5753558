"""What is measured, and what a figure is: the cases, and the rows of var/bench.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

OUT = Path(__file__).parents[2] / "var" / "bench.json"


@dataclass(frozen=True)
class Row:
    """One figure of one case: the medians of both sides, and the median of the ratios.

    Where the metric says so, `postfix` is not Postfix's figure but that of the side it names.
    """

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
    """What is measured: `mails` of `size` octets over `connections` at a time; not `kept`, each
    mail has a connection of its own.  Our filters are in the workers, or in milterd behind
    `sockets`."""

    size: int
    mails: int
    connections: int
    filters: bool
    kept: bool = True
    tls: bool = False
    sockets: bool = False

    def __str__(self) -> str:
        size = f"{self.size // 1000} kB" if self.size < 1_000_000 else f"{self.size // 10**6} MB"
        words = [size, f"{self.connections} conn.", "three filters" if self.filters else "none"]
        words += ["one mail each"] * (not self.kept) + ["TLS"] * self.tls
        return ", ".join([*words, *["at sockets"] * self.sockets])

    def row(self, metric: str, ours: float, other: float, ratio: float) -> Row:
        """A figure of this case."""
        facts = (self.size, self.connections, self.filters, self.kept, self.tls)
        metric += ", filters at sockets" * self.sockets
        return Row(*facts, metric, round(ours, 2), round(other, 2), round(ratio, 3))


CASES = (
    Case(4_096, 1_500, 20, filters=True),
    Case(100_000, 500, 20, filters=True),
    Case(10_000_000, 40, 20, filters=True),
    Case(4_096, 900, 1, filters=True),
    Case(4_096, 2_000, 200, filters=True),
    Case(4_096, 1_000, 20, filters=True, kept=False),
    Case(4_096, 1_000, 20, filters=True, tls=True),
    Case(4_096, 2_000, 20, filters=False),
    Case(100_000, 600, 20, filters=False),
    Case(10_000_000, 40, 20, filters=False),
    Case(4_096, 900, 1, filters=False),
    Case(4_096, 2_000, 200, filters=False),
    Case(4_096, 1_000, 20, filters=False, kept=False),
    Case(4_096, 1_000, 20, filters=False, tls=True),
    Case(4_096, 600, 20, filters=False, kept=False, tls=True),
    Case(4_096, 1_500, 20, filters=True, sockets=True),
    Case(100_000, 500, 20, filters=True, sockets=True),
    Case(4_096, 1_000, 20, filters=True, kept=False, sockets=True),
)
QUICK = (0, 1, 7, 8, 10, 13)
"""Those of a run that takes two minutes."""


def keep(rows: Iterable[Row]) -> None:
    """Put them into var/bench.json, each in the place of its last measure."""
    found = json.loads(OUT.read_text()) if OUT.exists() else []
    by_name = {_name(each): each for each in found}
    by_name |= {_name(each): each for each in map(asdict, rows)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(list(by_name.values()), indent=1) + "\n")


def _name(row: dict[str, object]) -> tuple[object, ...]:
    return tuple(row[key] for key in ("size", "connections", "filters", "kept", "tls", "metric"))
