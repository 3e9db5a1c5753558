"""What the signatures of a mail forbid: the one place where rules ask about them.

Nothing is read of a signature before a rule would change something, since most mail leaves
this filter as it came.
"""

from __future__ import annotations

from collections.abc import Callable

from milterd.core.mail import Mail
from milterd.filters.signatures import Coverage, covers

Covers = Callable[[Mail], Coverage]
"""How the signatures of a mail are read.  Bounded in time, never raises."""


class Shield:
    """The signatures of one mail."""

    __slots__ = ("_coverage", "_covers", "_mail")

    def __init__(self, mail: Mail, read: Covers = covers) -> None:
        self._mail, self._covers = mail, read
        self._coverage: Coverage | None = None

    @property
    def coverage(self) -> Coverage:
        """Read on first need."""
        if self._coverage is None:
            self._coverage = self._covers(self._mail)
        return self._coverage

    def field(self, position: int) -> bool:
        """Whether the field at this place in the mail, from 0, has to stay as it is."""
        return self.coverage.covers_field(position)

    def addition(self, name: bytes, position: int | None) -> bool:
        """Whether another field of that name, above the one at `position` or below all, would
        break a signature."""
        at = len(self._mail.headers) if position is None else position
        return self.coverage.covers_addition(name, at)

    def body(self) -> bool:
        """Whether a change to the body would break a signature."""
        return any(each.body_length != 0 for each in self.coverage.signatures)
