"""Debian's clamav-milter in front of a clamd, as a milter of somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from tests.peers.clamd import Clamd
from tests.peers.process import Peer, answers, daemon, program


@dataclass(frozen=True)
class Milter:
    """A milter that answers on `socket`; `address` is how configuration names it."""

    socket: Path
    peer: Peer

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"


@contextmanager
def clamav_milter(home: Path, clamd: Clamd, **settings: str) -> Iterator[Milter]:
    """Run clamav-milter; infected mail is rejected unless `settings` (clamav-milter.conf(5))
    say otherwise."""
    socket = home / "clamav-milter.sock"
    lines = {
        "MilterSocket": str(socket),
        "MilterSocketMode": "666",
        "ClamdSocket": f"unix:{clamd.socket}",
        "TemporaryDirectory": str(home),
        "Foreground": "yes",
        "OnInfected": "Reject",
        "OnFail": "Defer",
        "RejectMsg": "infected: %v",
        "AddHeader": "Replace",
        "LogInfected": "Basic",
        "LogTime": "yes",
        **settings,
    }
    config = home / "clamav-milter.conf"
    config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    command = [program("clamav-milter", "clamav-milter"), f"--config-file={config}"]
    # libmilter takes five seconds to end by SIGTERM, and there is nothing to lose.
    with daemon("clamav-milter", command, home, lambda: answers(socket), end=SIGKILL) as peer:
        yield Milter(socket, peer)
