"""The policy protocol's requests and answers as octets.  No I/O.

A request is lines `name=value` and an empty line; an answer is a line `action=WHAT` and an empty
line, other names beside it are ignored (SMTPD_POLICY_README, "Protocol description").  A value
has no line break and no NUL: what is sent has them as `?`, so that nobody's text becomes an
attribute of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LINE_LIMIT = 8192
"""Octets of a line."""
REQUEST_LIMIT = 65536
"""Octets of a request or an answer."""
ATTRIBUTES = 200
"""Attributes of a request or an answer."""
_VALUE = 2000
"""Characters of a value that is sent."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udc7f\udd00-\udfff]")


class Malformed(Exception):  # noqa: N818 - it says what happened
    """Not the policy protocol; the message says why."""


def encode(attributes: Mapping[str, str]) -> bytes:
    """A request or an answer.  Raises ValueError for a name that is none."""
    lines = []
    for name, value in attributes.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of an attribute")
        lines.append(f"{name}={safe(value)}\n")
    return ("".join(lines) + "\n").encode("utf-8", "surrogateescape")


def safe(value: str) -> str:
    """A value as it may be sent: one line, of at most what a reader takes."""
    return _BREAKS.sub("?", value)[:_VALUE]


class Reader:
    """Takes octets as they come, gives what is complete.  After Malformed it is of no use."""

    def __init__(self) -> None:
        self._buffer = b""
        self._size = 0
        self._found: dict[str, str] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing of a next one has come."""
        return not self._buffer and not self._found

    def feed(self, octets: bytes) -> None:
        """More of what the peer sends."""
        self._buffer += octets

    def next(self) -> dict[str, str] | None:
        """The next request or answer; None where it has not come yet.  Raises Malformed."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if len(line) > LINE_LIMIT:
                raise Malformed(f"a line is longer than {LINE_LIMIT} octets")
            if not end:
                return None
            self._buffer = rest
            if not line.removesuffix(b"\r"):
                if not self._found:
                    raise Malformed("an empty line before any attribute")
                found, self._found, self._size = self._found, {}, 0
                return found
            self._take(line.removesuffix(b"\r"))

    def _take(self, line: bytes) -> None:
        self._size += len(line)
        if self._size > REQUEST_LIMIT or len(self._found) >= ATTRIBUTES:
            raise Malformed("too many attributes")
        name, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
        if not equals or _NAME.fullmatch(name) is None:
            raise Malformed("a line is not name=value")
        if name in self._found:
            # Which of the two is meant, reader and writer may see differently.
            raise Malformed(f"{name} stands there twice")
        self._found[name] = value


def action(answer: Mapping[str, str]) -> str:
    """What an answer says; an empty action is none (smtpd).  Raises Malformed."""
    if "action" not in answer:
        raise Malformed("an answer without action")
    return _BREAKS.sub("?", answer["action"].strip()) or "DUNNO"
