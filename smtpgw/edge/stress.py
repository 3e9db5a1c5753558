"""Whether a listener is under stress: near the number of connections it may have.

As with master(8), which tells smtpd(8) of it when all processes are busy, sessions that begin
then go by shorter limits (STRESS_README).  It is on from nine tenths and off below seven, so that
it does not change with every client.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from smtpgw.edge.options import StressMode

ON_FROM = 0.9
OFF_BELOW = 0.7


class Stress:
    """One listener's, in one process."""

    def __init__(self, listener: str, log: FilteringBoundLogger) -> None:
        self.on = False
        self._listener, self._log = listener, log

    def look(self, connections: int, limit: int, mode: StressMode) -> bool:
        """Whether it is on with so many connections; a change is told once."""
        if mode == "auto":
            threshold = OFF_BELOW if self.on else ON_FROM
            now = connections >= threshold * limit
        else:
            now = mode == "yes"
        if now != self.on:
            self.on = now
            metrics.STRESS.labels(self._listener).set(int(now))
            word = "begins" if now else "is over"
            self._log.warning(
                f"stress {word}", listener=self._listener, connections=connections, limit=limit
            )
        return now
