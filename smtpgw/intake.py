"""The one door into the queue: for mail from the edge and for our own DSNs.

`accept` returns when the mail, its envelope, every recipient and the decision are
committed and synced; only then may a client see 250.  What it raises carries the
answer for the client: `code`, `enhanced`, `answer` (:class:`QueueError`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from milterd.core.decision import Reason
from milterd.core.mail import Mail
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.store import NewMail, QueueError, Store, StoreFailed, StoreFull

SiteOf = Callable[[Iterable[bytes], bytes], Awaitable[str]]
"""What a mail for recipients, from a sender, waits for in the queue."""


class NoRecipients(QueueError):  # noqa: N818 - the name says what happened
    """A mail nobody is to get; whoever discards a mail does not queue it."""

    code = 554
    enhanced = "5.5.1"
    answer = "No valid recipients"


class Intake:
    """The door.  `wake` is called when there is something new to deliver; `site_of` says
    what a mail for these recipients waits for in the queue."""

    def __init__(
        self, store: Store, clock: QueueClock, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._store, self._clock = store, clock
        self.wake = wake
        self.site_of: SiteOf = _any_site

    def new_id(self) -> str:
        """A queue id; the edge asks for one at MAIL."""
        return self._store.new_id()

    def check(self, size: int = 0) -> None:
        """At MAIL: raise what `accept` would raise for a mail of `size` octets now."""
        if self._store.failed is not None:
            raise StoreFailed(self._store.failed)
        if not self._store.room(size):
            raise StoreFull("less than queue_minfree left on the queue's device")

    async def accept(
        self,
        mail: Mail,
        *,
        queue_id: str,
        decision: Sequence[Reason] = (),
        hold: str | None = None,
        handed: str = "",
        doomed: str = "",
    ) -> None:
        """Queue it for good.  Cancelling the caller does not undo it half-way.

        `handed` is the file that a local mail stood in, `doomed` why it is to be bounced.
        Raises StoreFull (452), StoreFailed (451), QueueError (451), NoRecipients (554).
        """
        new = await self.routed(self.prepare(mail, queue_id=queue_id, decision=decision, hold=hold))
        new = replace(new, handed=handed, doomed=doomed)
        await asyncio.shield(asyncio.ensure_future(self._store.add(new)))
        self.wake()

    def prepare(
        self, mail: Mail, *, queue_id: str, decision: Sequence[Reason] = (), hold: str | None = None
    ) -> NewMail:
        """The same mail as `accept` would queue it, for a store's transaction with more in it."""
        if not mail.envelope.recipients:
            raise NoRecipients(f"{queue_id}: no recipients")
        return NewMail(
            queue_id=queue_id,
            mail=mail,
            arrived=self._clock.wall(),
            born=self._clock.now(),
            reasons=tuple(decision),
            hold=hold,
        )

    async def routed(self, new: NewMail) -> NewMail:
        """The mail with what it waits for."""
        envelope = new.mail.envelope
        those = [each.address for each in envelope.recipients]
        return replace(new, site=await self.site_of(those, envelope.sender))


async def _any_site(_recipients: Iterable[bytes], _sender: bytes) -> str:
    return ""
