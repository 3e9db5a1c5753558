"""How many errors and how much idle talk a client has left (Postfix: smtpd(8))."""

from __future__ import annotations

from smtpgw.edge.options import Limits
from smtpgw.edge.road import Answer

TOO_MANY_ERRORS = Answer(421, "4.7.0", "Too many errors", hangup=True)
TOO_MUCH_JUNK = Answer(421, "4.7.0", "Too many commands without mail", hangup=True)
TOO_MANY_RECIPIENTS = Answer(452, "4.5.3", "Too many recipients")

JUNK = frozenset({"HELO", "EHLO", "NOOP", "RSET", "VRFY", "EXPN", "ETRN", "HELP"})
"""Verbs that bring no mail nearer."""


class Budget:
    """Counts for one session; an accepted mail restores them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors = 0
        self._junk = 0
        self._overshoot = 0

    def restore(self) -> None:
        """A mail was accepted."""
        self._errors = self._junk = self._overshoot = 0

    def command(self, verb: str) -> Answer | None:
        """A command came; an answer means it is one too many."""
        if verb in JUNK:
            self._junk += 1
        return TOO_MUCH_JUNK if self._junk > self._limits.junk_command_limit else None

    def error(self, answer: Answer) -> tuple[Answer, float]:
        """A command is refused with `answer`: what to send, and seconds to wait first."""
        if answer is TOO_MANY_RECIPIENTS:
            self._overshoot += 1
            if self._overshoot <= self._limits.recipient_overshoot_limit:
                return answer, 0.0
        self._errors += 1
        if self._errors > self._limits.hard_error_limit:
            return TOO_MANY_ERRORS, 0.0
        slow = self._errors > self._limits.soft_error_limit
        return answer, self._limits.error_sleep_time if slow else 0.0
