"""What can go wrong on a milter connection: our fault, or the peer's.

Whoever catches one of these must drop the connection: after either error a
connection object refuses every further call.
"""

from __future__ import annotations


class WireError(Exception):
    """The parent of both kinds of error; never raised itself.

    `reason` says in one line what was wrong, without the peer's octets.
    """

    def __init__(self, reason: str) -> None:
        if type(self) is WireError:
            raise TypeError("raise LocalError or PeerError, never WireError")
        super().__init__(reason)
        self.reason = reason


class LocalError(WireError):
    """The caller broke the protocol's rules: an illegal move, or a value no frame can carry."""


class PeerError(WireError):
    """The other side broke the protocol's rules."""


class FrameError(PeerError):
    """A frame whose length is zero or over the limit."""
