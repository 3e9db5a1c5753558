"""Debian's clamd with no signatures but the project's own (rules/*.ndb, rules/*.hdb)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import Peer, answers, daemon, free_port, program

RULES = Path(__file__).parents[2] / "rules"


@dataclass(frozen=True)
class Clamd:
    """A clamd that answers on `socket` (descriptor passing) and 127.0.0.1:`port`."""

    socket: Path
    port: int
    peer: Peer


def _config(home: Path, database: Path, port: int, settings: Mapping[str, str]) -> Path:
    lines = {
        "DatabaseDirectory": str(database),
        "LocalSocket": str(home / "clamd.sock"),
        "LocalSocketMode": "666",
        "TCPSocket": str(port),
        "TCPAddr": "127.0.0.1",
        "TemporaryDirectory": str(home),
        "OfficialDatabaseOnly": "no",
        "AlertExceedsMax": "yes",
        "AlertEncrypted": "yes",
        "Foreground": "yes",
        "LogTime": "yes",
        "LogVerbose": "yes",
        "MaxThreads": "8",
        **settings,
    }
    path = home / "clamd.conf"
    path.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    return path


@contextmanager
def clamd(home: Path, database: Path = RULES, **settings: str) -> Iterator[Clamd]:
    """Run clamd with its files in `home`; `settings` are clamd.conf(5) settings."""
    port, socket = free_port(), home / "clamd.sock"
    config = _config(home, database, port, settings)
    command = [program("clamd", "clamav-daemon"), "--foreground", f"--config-file={config}"]
    ready = lambda: answers(socket) and answers(port)  # noqa: E731 - read once, here
    with daemon("clamd", command, home, ready) as peer:
        yield Clamd(socket, port, peer)
