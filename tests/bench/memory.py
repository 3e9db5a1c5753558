"""What a worker has in memory: python -m tests.bench.memory.

At rest; with 1,000 clients that have said EHLO; while 100 mails of 25 MB arrive, each of which
stops in the middle of its body until all have come so far.  RSS is all that is mapped and there,
of which some is Python's and libraries' code, which all processes share; PSS counts each shared
page by its part.  The most RSS is the kernel's own (VmHWM in proc(5)), so no peak is missed.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from tests.bench.case import Case, Row, keep
from tests.bench.cost import family
from tests.bench.load import taken
from tests.bench.servers import Side, ours, sink
from tests.load.crowd import Task
from tests.peers.process import wait_for

LINE = b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n"
PIECE = LINE * 900
SETTINGS = "message_size_limit = 30000000\n"
BOUNDS = {"idle": 80, "clients": 250, "mails": 400}
"""MB of RSS that a worker is to keep below."""
_WAIT = 300.0


@dataclass(frozen=True)
class Memory:
    """Of one process, in MB (10**6 octets): now, its part of what is shared, and at most."""

    rss: float
    pss: float
    most: float


def of(pid: int) -> Memory:
    """What it has."""
    found = {}
    for name in ("smaps_rollup", "status"):
        for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
            words = line.split()
            if words[0] in ("Rss:", "Pss:", "VmHWM:"):
                found[words[0]] = int(words[1]) * 1024 / 1e6
    return Memory(found["Rss:"], found["Pss:"], found["VmHWM:"])


def worker(side: Side) -> int:
    """The process id of its only worker."""
    pids = family(side.roots())
    named = [pid for pid in pids if b"smtpgw.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (found,) = named
    return found


@contextmanager
def clients(port: int, count: int) -> Iterator[None]:
    """So many that have said EHLO and say no more."""
    task = json.dumps(asdict(Task(port, "idle", count)))
    crowd = subprocess.Popen(
        [sys.executable, "-m", "tests.load.crowd", task],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"ready\n"
        yield
    finally:
        crowd.terminate()
        crowd.wait()


def arrive(port: int, mails: int, size: int) -> None:
    """So many mails at once; returns with the last 250."""
    half_way = threading.Barrier(mails)

    def one() -> None:
        with socket.create_connection(("127.0.0.1", port), _WAIT) as client:
            answers = client.makefile("rb")
            _expect(answers.readline(), b"220")
            lines = b"MAIL FROM:<a@example.net>", b"RCPT TO:<u@example.net>", b"DATA"
            for line in (b"HELO memory.example.net", *lines):
                client.sendall(line + b"\r\n")
                _expect(answers.readline(), b"354" if line == b"DATA" else b"250")
            client.sendall(b"Subject: large\r\n\r\n")
            pieces = size // len(PIECE)
            for number in range(pieces):
                if number == pieces // 2:
                    half_way.wait(_WAIT)
                client.sendall(PIECE)
            client.sendall(b".\r\n")
            _expect(answers.readline(), b"250")

    with ThreadPoolExecutor(mails) as threads:
        for each in [threads.submit(one) for _ in range(mails)]:
            each.result()


def _expect(line: bytes, code: bytes) -> None:
    if not line.startswith(code):
        raise RuntimeError(f"the server said {line!r}")


def rows(filters: bool, count: int, mails: int, size: int) -> Iterator[tuple[str, int, Memory]]:
    """What is measured, the bound, and the figures."""
    with sink() as (port, peer), ours(filters, port, 1, more=SETTINGS) as side:
        pid = worker(side)
        yield "idle", BOUNDS["idle"], of(pid)
        with clients(side.port, count):
            yield f"{count} clients", BOUNDS["clients"], of(pid)
        before = taken(peer)
        arrive(side.port, mails, size)
        wait_for(lambda: taken(peer) >= before + mails, "all delivered", within=_WAIT)
        yield f"{mails} mails of {size // 10**6} MB", BOUNDS["mails"], of(pid)


def main(
    count: Annotated[int, typer.Option("--clients")] = 1000,
    mails: Annotated[int, typer.Option(help="Mails that arrive at once.")] = 100,
    size: Annotated[int, typer.Option(help="Octets of each of them.")] = 25_000_000,
) -> None:
    """Print the table, and put it into var/bench.json."""
    kept: list[Row] = []
    print("| a worker, MB | RSS | PSS | most RSS | bound |\n|---|---|---|---|---|")
    for filters in (False, True):
        case = Case(size, mails, mails, filters)
        for what, bound, found in rows(filters, count, mails, size):
            said = f"{what}, {'three filters' if filters else 'no filters'}"
            print(f"| {said} | {found.rss:.1f} | {found.pss:.1f} | {found.most:.1f} | {bound} |")
            metric = f"MB of a worker beside the bound: {what}"
            kept.append(case.row(metric, found.most, bound, found.most / bound))
    keep(kept)


if __name__ == "__main__":
    typer.run(main)
