"""A milter as a peer: one that runs, and one that is ready to be started."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import Peer, answers, daemon


@dataclass(frozen=True)
class Milter:
    """A milter that answers on `socket`; `address` is how configuration names it."""

    socket: Path
    peer: Peer

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"


@dataclass(frozen=True)
class Program:
    """A milter with all its files in `home`; `command` stays in the foreground.

    `ready`: what is true when it serves, besides that somebody answers.  libmilter takes
    five seconds to end by SIGTERM, and there is nothing to lose: hence `end`.
    """

    name: str
    home: Path
    socket: Path
    command: Sequence[str]
    ready: Callable[[], bool] = lambda: True
    end: signal.Signals = signal.SIGKILL

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    @contextmanager
    def run(self) -> Iterator[Milter]:
        """It, until the end of the block."""
        ready = lambda: self.ready() and answers(self.socket)  # noqa: E731 - read once, here
        with daemon(self.name, self.command, self.home, ready, end=self.end) as peer:
            yield Milter(self.socket, peer)
