"""What processes have cost: processor time and memory, from /proc."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.stack import descendants

_TICK = os.sysconf("SC_CLK_TCK")
_PERIOD = 0.5
"""Seconds from one look at the memory to the next: a look costs some milliseconds."""


def family(roots: Iterable[int]) -> set[int]:
    """These processes and all below them."""
    return {pid for root in roots for pid in (root, *descendants(root))}


def cpu(roots: Iterable[int]) -> float:
    """Seconds of processor time of these and all below them, those included that have ended and
    were waited for."""
    return sum(by_program(roots).values())


def by_program(roots: Iterable[int]) -> dict[str, float]:
    """The same by what runs; a process's children that have ended count as its own."""
    found: dict[str, float] = defaultdict(float)
    for pid in family(roots):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended just now; its parent has its time
        name = text[text.index("(") + 1 : text.rindex(")")]
        if "-m" in words:  # one of ours: the module, and what it is to be
            name = " ".join(words[words.index("-m") + 1 :][:2]).strip()
        elif name.startswith(("smtpgw.", "milterd.")):  # forked: it says itself what it is
            name = " ".join(words[0].split()[:2])
        found[name] += sum(map(int, text.rpartition(")")[2].split()[11:15])) / _TICK
    return found


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


@contextmanager
def peak(roots: Callable[[], Iterable[int]]) -> Iterator[list[float]]:
    """What their memory is, looked at now and then until the block ends, and once more then."""
    found, over = [memory(roots())], threading.Event()

    def run() -> None:
        while not over.wait(_PERIOD):
            found.append(memory(roots()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.append(memory(roots()))
