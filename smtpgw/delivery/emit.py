"""The octets of a message as they go after DATA (RFC 5321 sections 2.3.8 and 4.5.2).

Whatever goes in, what comes out has no bare CR or LF, no line that is a lone dot but
the last one, and ends with CRLF.CRLF.  A stray CR or LF, which nothing behind the edge
should hold, becomes a space: it can then end no line anywhere.  Sans-I/O.
"""

from __future__ import annotations

import re

_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class DotStuffer:
    """Feed the message in pieces of any size, then finish."""

    def __init__(self) -> None:
        self._line_start = True
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """The octets to send for this piece; a final CR waits for what comes next."""
        data = self._held + piece
        self._held = b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        if not data:
            return b""
        return self._stuff(_without_strays(data))

    def _stuff(self, data: bytes) -> bytes:
        out = data.replace(b"\r\n.", b"\r\n..")
        if self._line_start and data.startswith(b"."):
            out = b"." + out
        self._line_start = data.endswith(b"\r\n")
        return out

    def finish(self) -> bytes:
        """What ends the message: the missing CRLF if any, and the lone dot."""
        rest = self._stuff(b" ") if self._held else b""
        self._held = b""
        return rest + (b".\r\n" if self._line_start else b"\r\n.\r\n")


def _without_strays(data: bytes) -> bytes:
    """The same with a space for each CR or LF that is no part of a CRLF.

    Counting finds out in a fraction of the time whether there is any, which there hardly is.
    """
    pairs = data.count(b"\r\n")
    if data.count(b"\r") == pairs == data.count(b"\n"):
        return data
    return _STRAY.sub(b" ", data)
