"""The octets of a message as they leave (RFC 5321 sections 2.3.8 and 4.5.2).

Whatever goes in, what comes out has no bare CR or LF, no line that is a lone dot but
the last one, and ends with CRLF.CRLF.  A stray CR or LF, which nothing behind the edge
should hold, becomes a space: it can then end no line anywhere.  Sans-I/O.
"""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

_CLEAN = (None, "\r\n")
_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class LineEnds:
    """CRLF and no other line end, whole to the last line.  Feed pieces of any size, then
    finish; no piece that comes out ends between CR and LF.  `whole`: it is so as it comes."""

    def __init__(self, *, whole: bool = False) -> None:
        self._whole, self._line_start = whole, True
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """The octets for this piece; a final CR waits for what comes next."""
        data = self._held + piece
        self._held = b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        if data:
            data = data if self._whole else _without_strays(data)
            self._line_start = data.endswith(b"\r\n")
        return data

    def finish(self) -> bytes:
        """What completes the last line."""
        if self._held:
            return b" \r\n"
        return b"" if self._line_start else b"\r\n"


def _without_strays(data: bytes) -> bytes:
    """The same with a space for each CR or LF that is no part of a CRLF.

    Hardly ever is there any, and the decoder of text files finds that out in one look.
    """
    scanner = IncrementalNewlineDecoder(None, translate=False)
    scanner.decode(str(data, "latin-1"), final=True)
    if scanner.newlines in _CLEAN:
        return data
    return _STRAY.sub(b" ", data)


class Folder:
    """Lines over `limit` octets, CRLF left out, are broken by CRLF and a space, as Postfix
    does (smtp_line_length_limit).  A UTF-8 character stays whole, and waits till it is.
    Wants what :class:`LineEnds` gives, to the final CRLF."""

    def __init__(self, limit: int) -> None:
        self._limit, self._column = limit, 0
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        data = self._held + data
        whole = _before_character(data, len(data) - 1) if data[-1:] >= b"\x80" else len(data)
        data, self._held = data[:whole], data[whole:]
        return self._folded(data)

    def _folded(self, data: bytes) -> bytes:
        out: list[bytes] = []
        start = at = 0
        column = self._column
        while column + len(data) - at > self._limit:
            room = self._limit - column
            end = data.rfind(b"\r\n", at, at + room + 2)
            if end >= 0:
                at, column = end + 2, 0
                continue
            at = max(_before_character(data, at + room), at)
            out.append(data[start:at])
            start, column = at, 1
        out.append(data[start:])
        last = data.rfind(b"\r\n", at)
        self._column = len(data) - last - 2 if last >= 0 else column + len(data) - at
        return b"\r\n ".join(out)


def _before_character(data: bytes, at: int) -> int:
    """Where the UTF-8 character begins that the octet at `at` belongs to."""
    for back in range(min(4, at + 1)):
        if data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


class DotStuffer:
    """What goes after DATA.  Feed the message in pieces of any size, then finish.

    `limit` breaks longer lines (:class:`Folder`); 0 for none.  `whole` is as for
    :class:`LineEnds`.
    """

    def __init__(self, limit: int = 0, *, whole: bool = False) -> None:
        self._ends = LineEnds(whole=whole)
        self._folder = Folder(limit) if limit else None
        self._line_start = True

    def feed(self, piece: bytes) -> bytes:
        """The octets to send for this piece."""
        data = self._fold(self._ends.feed(piece))
        return self._stuff(data) if data else b""

    def _fold(self, data: bytes) -> bytes:
        return data if self._folder is None else self._folder.feed(data)

    def _stuff(self, data: bytes) -> bytes:
        out = data.replace(b"\r\n.", b"\r\n..")
        if self._line_start and data.startswith(b"."):
            out = b"." + out
        self._line_start = data.endswith(b"\r\n")
        return out

    def finish(self) -> bytes:
        """What ends the message: the missing CRLF if any, and the lone dot."""
        return self._fold(self._ends.finish()) + b".\r\n"


def is_whole(text: bytes) -> bool:
    """Whether all its lines end in CRLF, and nothing else is in it of a line end."""
    return text.endswith(b"\r\n") and _without_strays(text) is text


def stuffed(message: bytes, whole_from: int | None = None) -> bytes:
    """What goes after DATA for a whole message, as :class:`DotStuffer` makes it without a limit.
    All from the octet `whole_from` on is known to be as :func:`is_whole`."""
    if message.endswith(b"\r\n"):
        doubtful = message[:whole_from]
        clean = _without_strays(doubtful)
        data = message if clean is doubtful else clean + message[len(doubtful) :]
    else:
        ends = LineEnds()
        data = ends.feed(message)
        data += ends.finish()
    data = data.replace(b"\r\n.", b"\r\n..")
    return b".%b.\r\n" % data if data[:1] == b"." else data + b".\r\n"
