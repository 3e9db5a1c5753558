"""Compare the dkim filter with OpenDKIM: processor time of a signature, in one run.

    python -m tests.bench.dkim [--seconds 6]

prints the table of docs/dkim.md.  Each is its own daemon as it is shipped, with an RSA key of
2048 bits, relaxed/relaxed, on a UNIX socket; the same client sends the same mails to each in
turn, and the best of three turns counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.bench.hosts import HEADERS, cpu_seconds, milterd
from tests.host.mta import Mta
from tests.peers import opendkim
from tests.peers.process import directory

SIZES = {"4 kB": 4_000, "100 kB": 100_000}
TURNS = 3
LINE = b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n"

Start = Callable[[], AbstractContextManager[tuple[str, int]]]


def cpu_ms(address: str, pid: int, size: int, seconds: float) -> float:
    """Milliseconds of processor time for a mail, sent as Postfix sends it: what the milter wants
    to answer is waited for."""
    body = (LINE * (size // len(LINE) + 1))[:size]
    pieces = [body[at : at + 65_535] for at in range(0, size, 65_535)]
    macros = ((b"{auth_authen}", b"u"),)
    with Mta(address) as mta:
        mta.greet()
        for _ in range(20):
            mta.message(HEADERS, body=pieces, macros=macros)
        count, before, began = 0, cpu_seconds(pid), time.monotonic()
        while time.monotonic() - began < seconds:
            answer = mta.message(HEADERS, body=pieces, macros=macros)
            count += 1
        assert answer.edits
        return (cpu_seconds(pid) - before) / count * 1000


@contextmanager
def theirs() -> Iterator[tuple[str, int]]:
    """OpenDKIM: its socket and its process."""
    with directory("bench") as home, opendkim.opendkim(home, "s") as peer:
        yield str(peer.socket), peer.peer.pid


def ours(host: str) -> Start:
    """milterd's filter on one of its hosts."""

    @contextmanager
    def start() -> Iterator[tuple[str, int]]:
        with milterd(host, "dkim") as (address, pid, _):
            yield address, pid

    return start


def measure(seconds: float) -> dict[str, dict[str, float]]:
    """The best milliseconds by size and daemon."""
    daemons = {"OpenDKIM": theirs, "libmilter": ours("libmilter"), "native": ours("native")}
    found: dict[str, dict[str, float]] = {size: {} for size in SIZES}
    for _ in range(TURNS):
        for name, start in daemons.items():
            with start() as (address, pid):
                for label, size in SIZES.items():
                    now = cpu_ms(address, pid, size, seconds / TURNS)
                    found[label][name] = min(now, found[label].get(name, now))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    found = measure(parser.parse_args().seconds)
    print("| message | OpenDKIM | libmilter | native | libmilter / OpenDKIM | native / OpenDKIM |")
    print("|---|---|---|---|---|---|")
    for label, loads in found.items():
        cells = [f"{each:.2f} ms" for each in loads.values()]
        ratios = [f"{loads[each] / loads['OpenDKIM']:.2f}" for each in ("libmilter", "native")]
        print(f"| {' | '.join([label, *cells, *ratios])} |")


if __name__ == "__main__":
    main()
