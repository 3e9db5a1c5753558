"""What the chain answers, at each stage and at end of message."""

from __future__ import annotations

from dataclasses import dataclass

from milterd.core.actions import Edit
from milterd.core.decision import Reason, Reply, Verdict
from milterd.core.finding import Found
from milterd.core.mail import Mail


@dataclass(frozen=True, slots=True)
class StageResult:
    """What the milters say to connect, HELO, MAIL, RCPT or DATA.

    `verdict` is CONTINUE, REJECT, TEMPFAIL or DISCARD, never ACCEPT: a milter
    that accepts only leaves the others alone.  REJECT and TEMPFAIL bring their
    `reply`; after `hangup` the client is to be disconnected.  With DISCARD the
    client sees no difference: the chain remembers it until the transaction is
    over, and asks nobody further.  `found` is what the milters that want a
    quarantine, refuse the mail for good or discard it have found.
    """

    verdict: Verdict = Verdict.CONTINUE
    reply: Reply | None = None
    hangup: bool = False
    reasons: tuple[Reason, ...] = ()
    quarantine: bytes | None = None
    found: tuple[Found, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the client is to be told no."""
        return self.verdict in {Verdict.REJECT, Verdict.TEMPFAIL}


@dataclass(frozen=True, slots=True)
class ChainResult:
    """What the milters say to a whole message, and what they made of it.

    `mail` is the one handed in after the edits of each milter in turn; with
    CONTINUE it is what goes into the queue, held where `quarantine` gives a
    reason.  `edits` are those that were applied, by milter; `found` as in a
    :class:`StageResult`.
    """

    mail: Mail
    verdict: Verdict = Verdict.CONTINUE
    reply: Reply | None = None
    hangup: bool = False
    quarantine: bytes | None = None
    reasons: tuple[Reason, ...] = ()
    edits: tuple[tuple[str, tuple[Edit, ...]], ...] = ()
    found: tuple[Found, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the client is to be told no."""
        return self.verdict in {Verdict.REJECT, Verdict.TEMPFAIL}
