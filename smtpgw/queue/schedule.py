"""When to try again, when to warn, when to give up.  Pure.

Times are seconds of queue time (:mod:`smtpgw.queue.clock`).
"""

from __future__ import annotations

from dataclasses import dataclass

_DAY = 86_400.0
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """Postfix's names and defaults, in seconds (qmgr(8)).

    `delay_warning_time` 0 means no warning.
    """

    minimal_backoff_time: float = 300.0
    maximal_backoff_time: float = 4000.0
    maximal_queue_lifetime: float = 5 * _DAY
    bounce_queue_lifetime: float = 5 * _DAY
    delay_warning_time: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.minimal_backoff_time <= self.maximal_backoff_time:
            raise ValueError("minimal_backoff_time must be above 0, below maximal_backoff_time")


class Schedule:
    """Decides over time from the options alone."""

    def __init__(self, options: ScheduleOptions = ScheduleOptions()) -> None:
        self.options = options

    def backoff(self, attempts: int, chance: float) -> float:
        """Seconds to wait after `attempts` attempts: doubling, spread by `chance` (0 to 1).

        Never under minimal_backoff_time, never over maximal_backoff_time.
        """
        low, high = self.options.minimal_backoff_time, self.options.maximal_backoff_time
        step = min(high, low * 2.0 ** min(max(attempts, 1) - 1, 60))
        earliest, latest = max(low, step * (1 - _JITTER)), min(high, step * (1 + _JITTER))
        return earliest + (latest - earliest) * chance

    def next_attempt(
        self, *, born: float, now: float, attempts: int, chance: float, bounce: bool
    ) -> float:
        """When to try next.  The last attempt comes when the lifetime ends, not long after it."""
        due = now + self.backoff(attempts, chance)
        end = max(born + self.lifetime(bounce), now + self.options.minimal_backoff_time)
        return min(due, end)

    def lifetime(self, bounce: bool) -> float:
        """How long a mail may stay: `bounce` says whether its sender is the null sender."""
        options = self.options
        return options.bounce_queue_lifetime if bounce else options.maximal_queue_lifetime

    def expired(self, *, born: float, now: float, bounce: bool) -> bool:
        """Whether a recipient deferred `now` is to be bounced instead (RFC 5321 4.5.4.1)."""
        return now - born >= self.lifetime(bounce)

    def warn(self, *, born: float, now: float, warned: bool) -> bool:
        """Whether the one delay warning is due now."""
        after = self.options.delay_warning_time
        return after > 0 and not warned and now - born >= after
