"""SMTP and LMTP replies from a peer (RFC 5321 section 4.2), strictly and within bounds.

Sans-I/O: octets in, replies out.  What is not a reply raises :class:`BadReply`; the
caller then takes the peer's state as unknown, defers, and closes the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from smtpgw.delivery.outcome import clean

LINE_LIMIT = 2048
LINES_LIMIT = 100
_KNOWN = 8
"""Answers of a peer that are remembered."""
_KNOWN_OCTETS = 512

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?\r\Z", re.DOTALL)
_ENHANCED = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|\Z)")


class BadReply(Exception):  # noqa: N818 - it is the peer's fault, not an error of ours
    """The peer said something that is no reply, or too much of it."""


@dataclass(slots=True, init=False)
class Reply:
    """A whole reply: its code, 2, 3, 4 or 5 of it as `kind`, and the text of each line.  Not to be
    changed: one object may stand for the same octets heard twice."""

    code: int
    lines: tuple[bytes, ...]
    kind: int = field(compare=False, repr=False)
    _words: str | None = field(compare=False, repr=False)
    _enhanced: str | None = field(compare=False, repr=False)

    def __init__(self, code: int, lines: tuple[bytes, ...]) -> None:
        self.code, self.lines, self.kind = code, lines, code // 100
        self._words = self._enhanced = None

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code, if there is one of the reply's own class (RFC 2034)."""
        if self._enhanced is None:
            match = _ENHANCED.match(self.lines[0])
            same = match is not None and int(match[1]) == self.kind
            self._enhanced = match[0].decode() if match is not None and same else ""
        return self._enhanced or None

    @property
    def octets(self) -> bytes:
        """Code and text, lines joined by a space."""
        return b"%d %b" % (self.code, b" ".join(self.lines))

    @property
    def words(self) -> str:
        """The same as one line for people, at most so long (:func:`clean`)."""
        if self._words is None:
            self._words = clean(self.octets)
        return self._words


class ReplyParser:
    """Feed octets; take replies out of `replies`.  `midway`: a part of one is there, too."""

    def __init__(self, line_limit: int = LINE_LIMIT, lines_limit: int = LINES_LIMIT) -> None:
        self._line_limit, self._lines_limit = line_limit, lines_limit
        self._buffer = b""
        self._code = 0
        self._lines: list[bytes] = []
        self.replies: list[Reply] = []
        self.midway = False
        self._known: dict[bytes, tuple[Reply, ...]] = {}

    def feed(self, data: bytes) -> None:
        """Take octets.  Raises :class:`BadReply`; replies before the fault are kept.

        Most peers say the same to each envelope: what was understood once, from its first octet
        to its last, is not read again.
        """
        if self.midway:
            self._feed(self._buffer + data)
            return
        known = self._known.get(data)
        if known is not None:
            self.replies += known
            return
        before = len(self.replies)
        self._feed(data)
        if len(data) <= _KNOWN_OCTETS and not self.midway:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[data] = tuple(self.replies[before:])

    def _feed(self, data: bytes) -> None:
        try:
            self._take_all(data)
        finally:
            self.midway = bool(self._buffer or self._lines)

    def _take_all(self, data: bytes) -> None:
        *lines, self._buffer = data.split(b"\n")
        for each in lines:
            if len(each) >= self._line_limit:
                raise BadReply(f"reply line over {self._line_limit} octets")
            self._take(each)
        if len(self._buffer) > self._line_limit:
            raise BadReply(f"reply line over {self._line_limit} octets")

    def _take(self, line: bytes) -> None:
        match = _LINE.match(line)
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
