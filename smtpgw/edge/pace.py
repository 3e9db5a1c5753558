"""How long a message may still take to arrive.  Pure."""

from __future__ import annotations


class Pace:
    """A client has `grace` seconds, and wins back what its octets take at `rate` octets a second,
    but never has more than `grace` seconds before it (smtpd_min_data_rate in postconf(5)).

    Times are those of one clock, in seconds.
    """

    __slots__ = ("_grace", "_rate", "until")

    def __init__(self, now: float, grace: float, rate: int) -> None:
        self._grace, self._rate = grace, rate
        self.until = now + grace

    def hurry(self, now: float, grace: float) -> None:
        """From now on there are only so many seconds."""
        self._grace = min(self._grace, grace)
        self.until = min(self.until, now + self._grace)

    def took(self, now: float, octets: int) -> None:
        """So much has arrived by now."""
        self.until = min(self.until + octets / self._rate, now + self._grace)
