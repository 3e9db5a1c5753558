"""Which destinations do not answer at all, so that mail for them waits without trying.

After `cohort` failures to connect in a row a destination is left alone for `rest`
seconds, as Postfix's queue manager does (qmgr(8)); one success forgets all.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpgw.delivery.outcome import Destination


@dataclass(slots=True)
class _Trouble:
    failures: int
    until: float
    text: str


class Health:
    """Times are seconds of one clock, the caller's."""

    def __init__(self, *, cohort: int, rest: float) -> None:
        self._cohort, self._rest = cohort, rest
        self._trouble: dict[Destination, _Trouble] = {}

    def avoid(self, destination: Destination, now: float) -> str | None:
        """Why not to try it now, if so."""
        found = self._trouble.get(destination)
        if found is None or found.failures < self._cohort or now >= found.until:
            return None
        return found.text

    def failed(self, destination: Destination, now: float, text: str) -> None:
        """It could not be reached."""
        found = self._trouble.setdefault(destination, _Trouble(0, 0.0, ""))
        found.failures += 1
        found.until, found.text = now + self._rest, text

    def answered(self, destination: Destination) -> None:
        """It spoke to us."""
        self._trouble.pop(destination, None)

    def forget(self) -> None:
        """Try all again: somebody flushed the queue."""
        self._trouble.clear()
