"""Clients that speak TLS, which smtp-source(1) does not; the same for both sides.

    python -m tests.bench.clients PORT CONNECTIONS MAILS SIZE [kept] [tls]

A thread a connection; no two mails have the same body.  No session is taken up again: each
connection makes a whole handshake.
"""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.bench.probe import Probe


def main(port: int, connections: int, mails: int, size: int, *words: str) -> None:
    """Returns with the last 250; raises what went wrong in any of them."""
    kept, tls = "kept" in words, "tls" in words
    numbers = itertools.count()

    def one() -> None:
        probe = Probe(port, size, tls=tls) if kept else None
        while next(numbers) < mails:
            client = probe or Probe(port, size, tls=tls)
            client.mail()
            if not probe:
                client.close()
        if probe:
            probe.close()

    with ThreadPoolExecutor(connections) as threads:
        for each in [threads.submit(one) for _ in range(connections)]:
            each.result()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), *sys.argv[5:])  # type: ignore[arg-type]  # words follow numbers
