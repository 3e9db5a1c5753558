"""What any queue store promises.

* `add` and `settle` return only when what they wrote is committed and synced.
* A mail is leased to one courier at a time; a settlement under an old lease is refused.
* A failed sync is never retried: the store raises :class:`StoreFailed` from then on.
* Damage is a state with a reason, not an exception that stops the queue.

tests/queue/contract.py holds any store to this.

Times named `born` and `due` are queue time, `arrived` is wall time, all in seconds.
"""

# ruff: noqa: N818 - these names say what happened; "Error" would add nothing

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from milterd.core.decision import Reason
from milterd.core.mail import Body, Mail, Session
from milterd.core.values import value
from smtpgw.queue.caught import Caught
from smtpgw.queue.expected import Expected
from smtpgw.queue.recovered import Recovery
from smtpgw.queue.states import MailState, RecipientEvent, RecipientState
from smtpgw.queue.wish import ANY as ANY
from smtpgw.queue.wish import Rest as Rest
from smtpgw.queue.wish import Wish as Wish


class QueueError(Exception):
    """The queue could not do it.  `code`, `enhanced` and `answer` are for the client."""

    code: ClassVar[int] = 451
    enhanced: ClassVar[str] = "4.3.0"
    answer: ClassVar[str] = "Queue file write error"


class StoreFull(QueueError):
    """No room on the device (space, quota, inodes, read-only); it may recover alone."""

    code = 452
    enhanced = "4.3.1"
    answer = "Insufficient system storage"


class StoreFailed(QueueError):
    """The disk failed a write or a sync; nothing more is accepted until a restart."""


class StoreLocked(QueueError):
    """Another process has this shard; the message names it."""


class StoreDamaged(QueueError):
    """The database cannot be opened: not ours, of another version, or broken."""


class StoreBroken(StoreDamaged):
    """What is in the database's file is no database any more: see smtpgw/queue/salvage.py."""


class Unreadable(QueueError):
    """What was stored cannot be read now; it may be whole, so it is to be tried again."""


class NotFound(QueueError):
    """No mail with this id."""


class StaleLease(QueueError):
    """The lease ran out and the mail was given to another."""


class Damaged(QueueError):
    """This mail's row or body is not what was stored."""


@value
class NewMail:
    """A mail to be queued.  With `hold` it goes to the hold queue, for that reason.

    `site` names what it waits for (a destination), '' where that is several: mails
    of one site share a turn, and a site that does not answer keeps only its own waiting.
    `handed` is the name of the file it was handed in by, remembered in the same transaction.
    `doomed` says, if it is not empty, why it is to be bounced without an attempt.
    `filtered` is the `transport:nexthop` that all recipients go to, whatever their routes say.
    With `caught` it goes into the quarantine.
    """

    queue_id: str
    mail: Mail
    arrived: float
    born: float
    reasons: tuple[Reason, ...] = ()
    hold: str | None = None
    site: str = ""
    handed: str = ""
    doomed: str = ""
    filtered: str = ""
    caught: Caught | None = None


@value
class QueuedRecipient:
    """One recipient and what is known of the last attempt for it."""

    number: int
    address: bytes
    args: tuple[bytes, ...] = ()
    state: RecipientState = RecipientState.PENDING
    enhanced: str = ""
    text: str = ""
    remote: str = ""
    destination: str = ""
    at: float = 0.0


@value
class QueuedMail:
    """A mail as the store knows it, without its octets.

    `doomed` says, if it is not empty, why the next attempt is to bounce it untried; `filtered`,
    the `transport:nexthop` that all recipients go to.
    """

    queue_id: str
    state: MailState
    sender: bytes
    sender_args: tuple[bytes, ...]
    session: Session
    size: int
    arrived: float
    born: float
    due: float | None
    attempts: int
    warned: bool
    note: str
    reasons: tuple[Reason, ...]
    recipients: tuple[QueuedRecipient, ...]
    site: str = ""
    doomed: str = ""
    filtered: str = ""
    caught: Caught | None = None

    @property
    def open(self) -> tuple[QueuedRecipient, ...]:
        """The recipients still to be served."""
        return tuple(each for each in self.recipients if not each.state.settled)


@value
class Lease:
    """The right to deliver a mail, until `until` (queue time)."""

    mail: QueuedMail
    token: int
    until: float


@value
class Result:
    """What became of one recipient in an attempt.  `remote` is the MTA that said so."""

    number: int
    event: RecipientEvent
    enhanced: str
    text: str
    remote: str = ""
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """One part of an attempt, for the history: what a destination said of some recipients.

    `at` is wall time, `took` seconds, `remote` and `text` the peer and its words.
    """

    at: float
    destination: str
    recipients: int
    outcome: str
    enhanced: str
    text: str
    remote: str = ""
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What there is to do: `leases`, whether another process changed the queue since the last
    look, and, if there are no leases, when something is `due`."""

    leases: Sequence[Lease]
    changed: bool
    due: float | None


@value
class Settlement:
    """The end of an attempt.

    `due` is the next attempt and `site` what it waits for, used if a recipient is left;
    `tried` is kept then for the history; with `hold` it is held then, for that reason.
    `follow` are mails to be queued in the same transaction: the DSNs that the outcomes
    call for.  `whole` says that nobody is left: with the results that were noted before, these
    settle every recipient.
    """

    queue_id: str
    token: int
    at: float
    results: tuple[Result, ...]
    due: float
    warned: bool = False
    follow: tuple[NewMail, ...] = ()
    site: str = ""
    tried: tuple[Tried, ...] = ()
    hold: str | None = None
    whole: bool = False


@value
class Content:
    """The octets of a mail: header block with its separator, and body."""

    head: bytes
    body: Body

    @property
    def size(self) -> int:
        """Octets of the whole message."""
        return len(self.head) + self.body.size

    def pieces(self) -> Iterator[bytes]:
        """The whole message."""
        yield self.head
        yield from self.body.pieces()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which mails to list: any of `states` (none means all that are in the queue; with
    `quarantine`, all that are in there), ids after `after`.

    Of each of `senders`, `recipients`, `destinations` and `reasons` that is not empty, one
    pattern has to fit (:mod:`smtpgw.queue.search`); recipients are those that are left, and
    the sender `<>` is the null sender.  `born_after` and `born_before` are queue time.
    """

    states: frozenset[MailState] = field(default_factory=frozenset)
    after: str = ""
    limit: int = 1000
    senders: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    born_after: float | None = None
    born_before: float | None = None
    quarantine: bool = False


class Store(Protocol):
    """A queue store; the module says what it promises."""

    expected: Expected
    """Mails that may come any moment: one that is added may wait a moment to share a transaction
    with them."""

    @property
    def failed(self) -> str | None:
        """Why nothing more is accepted, if so."""
        ...

    def new_id(self) -> str:
        """A queue id nobody had before."""
        ...

    def room(self, size: int) -> bool:
        """Whether `size` octets would leave the free space that is to stay free."""
        ...

    async def add(self, *mails: NewMail) -> bool:
        """Queue them, all or none; returns when committed, whether one waits for its turn: who
        takes mail at once (:mod:`smtpgw.queue.taking`) has the others.  Cancelling the caller does
        not undo it half-way.  Raises StoreFull, StoreFailed, QueueError."""
        ...

    async def handed(self, names: Sequence[str]) -> set[str]:
        """Which of these names are remembered, whatever became of their mails since."""
        ...

    async def forget(self, names: Sequence[str]) -> None:
        """Remember these names no more; the files are gone for good."""
        ...

    async def lease(self, now: float, limit: int, duration: float, wish: Wish = ANY) -> list[Lease]:
        """Up to `limit` mails that are due: new ones by half, sites in turn, and in each
        site senders in turn, so that nobody's mail waits for all of another's."""
        ...

    async def turn(self, now: float, limit: int, duration: float, wish: Wish = ANY) -> Turn:
        """`lease`, `changed` and, if there is no lease, `next_due`, at one moment."""
        ...

    async def rest(self, site: str, until: float, note: str) -> None:
        """Leave a site's mails alone until then; only the site is written, however many."""
        ...

    async def resting(self) -> list[Rest]:
        """The sites that are left alone."""
        ...

    async def history(self, queue_id: str) -> list[tuple[int, Tried]]:
        """What was tried for a mail that is still here: the attempt's number, and each
        part of it; the last hundred attempts.  Raises NotFound."""
        ...

    async def note(self, queue_id: str, token: int, at: float, results: Sequence[Result]) -> None:
        """Commit some outcomes while the attempt goes on."""
        ...

    async def settle(self, settlement: Settlement) -> MailState:
        """Commit the end of an attempt.  Raises StaleLease, NotFound (deleted meanwhile)."""
        ...

    async def settle_all(
        self, ends: Sequence[Settlement], *, later: bool = True
    ) -> list[MailState | Exception]:
        """The same for many that nothing follows, in one transaction; for each its state, or what
        `settle` would raise for it.  If `later`, they may wait a moment for others to share that
        with.  Raises QueueError where that is so for all."""
        ...

    async def content(self, queue_id: str) -> Content:
        """The octets, checked.  Raises NotFound, Damaged."""
        ...

    async def set_aside(self, queue_id: str, reason: str) -> None:
        """Mark a mail corrupt."""
        ...

    async def next_due(self, now: float) -> float | None:
        """When the next turn comes or lease ends that is not there yet, if any does."""
        ...

    async def changed(self) -> bool:
        """Whether another process changed the queue since the last call."""
        ...

    async def hold(self, queue_id: str, reason: str) -> None:
        """Put in the hold queue.  Raises NotFound, IllegalMove."""
        ...

    async def release(self, queue_id: str, now: float) -> None:
        """Out of the hold queue, due now."""
        ...

    async def flush(self, now: float, queue_id: str | None = None) -> int:
        """Make one, or every waiting mail due now; how many it was."""
        ...

    async def requeue(self, queue_id: str, now: float, site: str) -> None:
        """Route it anew: due now, waiting for `site`, its attempts forgotten."""
        ...

    async def doom(self, queue_id: str, now: float, reason: str) -> None:
        """Let the next attempt, due now, bounce all that are left, for that reason."""
        ...

    async def delete(self, queue_id: str) -> None:
        """Remove it without telling anybody."""
        ...

    async def list(self, chosen: Filter) -> list[QueuedMail]:
        """Mails by id."""
        ...

    async def show(self, queue_id: str) -> QueuedMail:
        """One mail."""
        ...

    async def counts(self) -> dict[MailState, int]:
        """How many mails stand in each state."""
        ...

    async def recover(self, now: float) -> Recovery:
        """Put right what the last run left; once, before anything else."""
        ...

    async def close(self) -> None:
        """Commit what waits, then let go of the shard."""
        ...
