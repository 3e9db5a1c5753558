"""SMTP and LMTP replies from a peer (RFC 5321 section 4.2), strictly and within bounds.

Sans-I/O: octets in, replies out.  What is not a reply raises :class:`BadReply`; the
caller then takes the peer's state as unknown, defers, and closes the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LINE_LIMIT = 2048
LINES_LIMIT = 100

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?\Z", re.DOTALL)
_ENHANCED = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|\Z)")


class BadReply(Exception):  # noqa: N818 - it is the peer's fault, not an error of ours
    """The peer said something that is no reply, or too much of it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: its code and the text of each line."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def kind(self) -> int:
        """2, 3, 4 or 5."""
        return self.code // 100

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code, if there is one of the reply's own class (RFC 2034)."""
        match = _ENHANCED.match(self.lines[0])
        if match is None or int(match[1]) != self.kind:
            return None
        return match[0].decode()

    @property
    def octets(self) -> bytes:
        """Code and text, lines joined by a space."""
        return b"%d %b" % (self.code, b" ".join(self.lines))


class ReplyParser:
    """Feed octets; take replies out of `replies`."""

    def __init__(self, line_limit: int = LINE_LIMIT, lines_limit: int = LINES_LIMIT) -> None:
        self._line_limit, self._lines_limit = line_limit, lines_limit
        self._buffer = bytearray()
        self._code = 0
        self._lines: list[bytes] = []
        self.replies: list[Reply] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is unread: no reply, and no part of one."""
        return not (self._buffer or self._lines or self.replies)

    def feed(self, data: bytes) -> None:
        """Take octets.  Raises :class:`BadReply`; replies before the fault are kept."""
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", start)) >= 0:
            if end + 1 - start > self._line_limit:
                raise BadReply(f"reply line over {self._line_limit} octets")
            self._take(bytes(self._buffer[start : end + 1]))
            start = end + 1
        del self._buffer[:start]
        if len(self._buffer) > self._line_limit:
            raise BadReply(f"reply line over {self._line_limit} octets")

    def _take(self, line: bytes) -> None:
        match = _LINE.match(line[:-2]) if line.endswith(b"\r\n") else None
        if match is None:
            raise BadReply(f"not a reply: {line[:80]!r}")
        code = int(match[1])
        if self._lines and code != self._code:
            raise BadReply(f"a reply with both {self._code} and {code}")
        if len(self._lines) >= self._lines_limit:
            raise BadReply(f"reply of over {self._lines_limit} lines")
        self._code = code
        self._lines.append(match[3] or b"")
        if match[2] != b"-":
            self.replies.append(Reply(code, tuple(self._lines)))
            self._lines = []
