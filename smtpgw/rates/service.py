"""The counts of all workers of a machine, kept by their supervisor: one end of a pair of sockets
for each worker, one packet for each question and each answer.

    question   NUMBER WORD IDENT      "17 connection mx:192.0.2.1"
    answer     NUMBER COUNT RATE      "17 3 12"

The word is an event, `?EVENT` for its rate alone, or `disconnect`, which has no answer.  What a
worker held ends with its socket (anvil(8) does the same).
"""

from __future__ import annotations

import asyncio
import socket

from structlog.typing import FilteringBoundLogger

from smtpgw.rates.counts import Counts, Event, Usage

DISCONNECT = "disconnect"

LONGEST = 512
"""Octets of a packet."""

_AT_ONCE = 100
"""Questions of one worker that are answered before others get their turn."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the worker's, neither blocking."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class CountService:
    """Answers any number of workers from the same counts, in the running loop."""

    def __init__(self, counts: Counts, log: FilteringBoundLogger) -> None:
        self.counts = counts
        self._log = log

    def attach(self, holder: str, ours: socket.socket) -> None:
        """Serve a worker until it ends; its socket is closed then.  No two have one name."""
        asyncio.get_running_loop().add_reader(ours, self._read, holder, ours)

    def _read(self, holder: str, ours: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = ours.recv(LONGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet = b""
            if not packet:
                self._detach(holder, ours)
                return
            self._serve(holder, ours, packet)

    def _detach(self, holder: str, ours: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()
        self.counts.drop(holder)

    def _serve(self, holder: str, ours: socket.socket, packet: bytes) -> None:
        number, _, rest = packet.decode("utf-8", "replace").partition(" ")
        word, _, ident = rest.partition(" ")
        if word == DISCONNECT:
            self.counts.disconnect(ident, holder)
            return
        try:
            usage = self._count(word, ident, holder)
        except ValueError:
            self._log.error("a worker asks what nobody knows", child=holder, word=word)
            return
        try:
            ours.send(f"{number} {usage.count} {usage.rate}".encode())
        except OSError:
            return  # it does not read, or is gone: it counts by itself meanwhile

    def _count(self, word: str, ident: str, holder: str) -> Usage:
        """Raises ValueError for a word that is none."""
        if word.startswith("?"):
            return Usage(0, self.counts.rate(Event(word[1:]), ident))
        event = Event(word)
        if event is Event.CONNECTION:
            return self.counts.connect(ident, holder)
        return Usage(0, self.counts.add(event, ident))
