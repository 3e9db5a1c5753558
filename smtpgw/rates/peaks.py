"""The highest counts and rates since the last report, as anvil(8) logs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest value, whose it was, and when (seconds since the epoch)."""

    value: int
    ident: str
    when: float


class Peaks:
    """By limit.  `wall` is seconds since the epoch."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._found: dict[str, Peak] = {}

    def note(self, limit: str, value: int, ident: str) -> None:
        """A client has reached this."""
        known = self._found.get(limit)
        if known is None or value > known.value:
            self._found[limit] = Peak(value, ident, self._wall())

    def report(self, log: FilteringBoundLogger, unit: float) -> dict[str, Peak]:
        """Log them, put them into the metrics, and begin anew; rates are for `unit` seconds."""
        found, self._found = self._found, {}
        for limit, peak in found.items():
            metrics.CLIENT_PEAKS.labels(limit).set(peak.value)
            rate = {"seconds": unit} if limit.endswith("_rate") else {}
            log.info(
                "statistics", limit=limit, max=peak.value, ident=peak.ident, when=peak.when, **rate
            )
        return found
