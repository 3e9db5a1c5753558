"""What processes have cost: processor time and memory, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tests.crash.stack import descendants

_TICK = os.sysconf("SC_CLK_TCK")


def family(roots: Iterable[int]) -> set[int]:
    """These processes and all below them."""
    return {pid for root in roots for pid in (root, *descendants(root))}


def cpu(roots: Iterable[int]) -> float:
    """Seconds of processor time of these and all below them, those included that have ended and
    were waited for."""
    total = 0
    for pid in family(roots):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue  # it ended just now; its parent has its time
        total += sum(map(int, text.rpartition(")")[2].split()[11:15]))
    return total / _TICK


def memory(roots: Iterable[int]) -> float:
    """MiB of these and all below them; what several share is counted once (PSS)."""
    total = 0
    for pid in family(roots):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(each.split()[1]) for each in lines if each.startswith("Pss:"))
    return total / 1024
