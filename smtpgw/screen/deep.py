"""The tests of the dialogue: what a client's command lines say of it.  Pure.

Each test fails at most once in a session, and is passed when the client has come to RCPT without
failing; what comes later may still take it back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from smtpgw.edge.road import Answer
from smtpgw.screen.early import DROPPED
from smtpgw.screen.options import PROTOCOL_ERROR, ScreenOptions
from smtpgw.screen.passes import OFF, Test

BREAKS_RULES = Answer(521, "5.7.0", "Error: I can break rules, too. Goodbye.", hangup=True)

KNOWN = frozenset({
    b"HELO", b"EHLO", b"STARTTLS", b"XCLIENT", b"XFORWARD", b"AUTH", b"MAIL", b"RCPT", b"DATA",
    b"BDAT", b"RSET", b"NOOP", b"VRFY", b"ETRN", b"QUIT",
})  # fmt: skip
"""Words that are no offence, whether the command is offered or not."""

_LABEL = re.compile(rb"[!-9;-~]+[ \t]*:")

SHOWN = 100
"""Octets of what a client has sent that a log line has."""


@dataclass(frozen=True, slots=True)
class Offence:
    """A test that a client has failed, what it sent, and what becomes of it: `part` at once, or
    `refuse` from now on; neither where the failure is ignored."""

    test: Test
    sent: bytes
    part: Answer | None = None
    refuse: Answer | None = None


class Deep:
    """One session's.  `todo` are the tests that are made."""

    def __init__(self, options: ScreenOptions, todo: frozenset[Test]) -> None:
        self._options, self.todo = options, todo
        self.until: dict[Test, float] = {}
        self.failed: set[Test] = set()
        self._over: set[Test] = set()

    def bare_newline(self, line: bytes, now: float) -> Offence | None:
        """A line has ended in LF alone."""
        return self._fail(Test.BARE_NEWLINE, line, now)

    def command(self, word: bytes, line: bytes, now: float) -> Offence | None:
        """A line with this first word: is it a command?"""
        if word.upper() in KNOWN or not self._open(Test.NON_SMTP):
            return None
        if _LABEL.match(word) or not _is_utf8(word) or self._options.forbidden(word):
            return self._fail(Test.NON_SMTP, line, now)
        return None

    def more_waits(self, word: bytes, rest: bytes, now: float) -> Offence | None:
        """The client has sent more before it was answered; after BDAT that is its right."""
        if not rest or word.upper() == b"BDAT":
            return None
        return self._fail(Test.PIPELINING, rest, now)

    def recipient(self, now: float) -> None:
        """RCPT: what has not failed by now is passed."""
        for each in self.todo - self._over - set(self.until):
            self.until[each] = now + self._options.ttl.get(each, 0.0)

    def _open(self, test: Test) -> bool:
        return test in self.todo and test not in self._over

    def _fail(self, test: Test, sent: bytes, now: float) -> Offence | None:
        if not self._open(test):
            return None
        self._over.add(test)
        action = self._options.action(test)
        if action == "ignore":
            self.until[test] = now + self._options.shortest
            return Offence(test, sent[:SHOWN])
        self.failed.add(test)
        self.until[test] = OFF
        if action == "enforce":
            return Offence(test, sent[:SHOWN], refuse=PROTOCOL_ERROR)
        part = BREAKS_RULES if test is Test.NON_SMTP else DROPPED
        return Offence(test, sent[:SHOWN], part=part)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
