"""A private redis-server without persistence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import Peer, answers, daemon, free_port, program


@dataclass(frozen=True)
class Redis:
    """One at `url`."""

    url: str
    peer: Peer


@contextmanager
def redis(home: Path) -> Iterator[Redis]:
    """Run one on loopback."""
    port = free_port()
    command = [
        program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1",
        "--save", "", "--appendonly", "no", "--dir", str(home),
    ]  # fmt: skip
    with daemon("redis", command, home, lambda: answers(port)) as peer:
        yield Redis(f"redis://127.0.0.1:{port}/0", peer)
