"""The attachments filter's options: what a configuration knows of it without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milterd.core.mail import Direction
from milterd.filters.virus_policy import Action, Actions, Matrix, Outcome
from milterd.ports.attached.found import Limits
from milterd.signed.keep import OnSigned

OUTCOMES = (
    Outcome.ENCRYPTED, Outcome.UNSCANNABLE, Outcome.TOO_LARGE, Outcome.TOO_SLOW,
    Outcome.UNAVAILABLE,
)  # fmt: skip
NOTE = "An attachment was taken out of this message by the mail server:"


@dataclass(frozen=True, slots=True)
class Reach:
    """How far is looked: `max_size` octets of a mail, `parts` of it, `seconds`, `readings` files
    of mail with several readings."""

    max_size: int = 26_214_400
    parts: int = 1000
    seconds: float = 30.0
    readings: int = 2000


@dataclass(frozen=True, slots=True)
class AttachmentsOptions:
    """Settings of the attachments filter.

    `rules` names a rule file in `directory`, or among those that come with us.  `general` has the
    action for each of OUTCOMES but those that are like another (virus_policy.LIKE); `directions`
    what differs.  `workers` processes look into files, within `limits`; the mail as a whole is
    looked at as far as `reach` says.  `on_signed` is for `strip`, which breaks signatures of the
    body; `note` is what stands in the place of what was taken out.
    """

    rules: str = "attachments"
    directory: Path | None = None
    general: Actions = field(
        default_factory=lambda: {
            Outcome.UNSCANNABLE: Action.TAG,
            Outcome.TOO_LARGE: Action.REJECT,
            Outcome.UNAVAILABLE: Action.TEMPFAIL,
        }
    )
    directions: Mapping[Direction, Actions] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    reach: Reach = field(default_factory=Reach)
    workers: int = 2
    on_signed: OnSigned = OnSigned.FORCE
    note: str = NOTE

    @property
    def matrix(self) -> Matrix:
        """What is done about each outcome."""
        return Matrix(self.general, self.directions, outcomes=OUTCOMES)
