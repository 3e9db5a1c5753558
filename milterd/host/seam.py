"""The seam between a filter's process and a host."""

from __future__ import annotations

import enum
import socket
from typing import Protocol

from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options


class HostKind(enum.Enum):
    """The two hosts, by their names in the configuration."""

    LIBMILTER = "libmilter"
    NATIVE = "native"


class Host(Protocol):
    """Serves one filter on one listening socket that somebody else opened and removes."""

    def serve(self) -> None:
        """Serve connections until :meth:`stop`; return when the grace is over or nobody
        is left.  Call it once, from the main thread."""
        ...

    def stop(self, grace: float, *, sessions: bool = False) -> None:
        """Accept no more connections, and end in at most `grace` seconds.

        Waits for messages in progress; with `sessions` also for connections between
        two messages, as a reload wants it.  Safe from signal handlers and threads.
        """
        ...


def create(kind: HostKind, judge: Judge, listener: socket.socket, around: Surroundings) -> Host:
    """A host of that kind.  Only the chosen one's library is loaded."""
    if kind is HostKind.LIBMILTER:
        from milterd.host.libmilter import LibmilterHost

        return LibmilterHost(judge, listener, around)
    from milterd.host.native import NativeHost

    return NativeHost(judge, listener, around)


__all__ = ["Host", "HostKind", "Judge", "Options", "Surroundings", "create"]
