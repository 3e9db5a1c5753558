"""How many errors and how much idle talk a client has left, counted as smtpd(8) counts them."""

from __future__ import annotations

from smtpgw.edge.options import Limits
from smtpgw.edge.road import Answer

TOO_MANY_ERRORS = Answer(421, "4.7.0", "Error: too many errors", hangup=True)
TOO_MANY_RECIPIENTS = Answer(452, "4.5.3", "Too many recipients")

JUNK = frozenset({"HELO", "EHLO", "LHLO", "NOOP", "RSET", "VRFY", "EXPN", "ETRN", "HELP"})
"""Verbs that bring no mail nearer."""


class Budget:
    """Counts for one session; an accepted mail restores them."""

    __slots__ = ("_at_first", "_errors", "_junk", "_limits", "_overshoot", "delay")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._errors = 0
        self._junk = 0
        self._overshoot = 0
        self.delay = 0.0
        """Seconds that each reply is held back."""
        self._slow()
        self._at_first = self.delay

    def restore(self) -> None:
        """A mail was accepted."""
        self._errors = self._junk = self._overshoot = 0
        self.delay = self._at_first

    def spend(self, verb: str, answer: Answer | None) -> bool:
        """A command was answered; whether there is nothing left to say then but
        :data:`TOO_MANY_ERRORS`.  Junk beyond its limit is an error even where the answer is
        positive; a recipient too many is none until there are too many of those."""
        if answer is not None and not answer.positive:
            self._errors += self._is_error(answer)
            self._slow()
        elif verb == "MAIL":
            self._overshoot = 0
        if verb in JUNK:
            self._errors += self._junk > self._limits.junk_command_limit
            self._junk += 1
            self._slow()
        return self._errors >= self._limits.hard_error_limit

    def _slow(self) -> None:
        slow = self._errors >= self._limits.soft_error_limit
        self.delay = self._limits.error_sleep_time if slow else 0.0

    def _is_error(self, answer: Answer) -> bool:
        if answer is not TOO_MANY_RECIPIENTS:
            return True
        self._overshoot += 1
        return self._overshoot > self._limits.recipient_overshoot_limit
