"""The one door into the queue: for mail from the edge and for our own DSNs.

What enters is readdressed first (:mod:`smtpgw.readdress`), which may make several mails of it:
they are queued together or not at all.  `accept` returns when they, their envelopes, every
recipient and the decision are committed and synced; only then may a client see 250.  What it
raises carries the answer for the client: `code`, `enhanced`, `answer` (:class:`QueueError`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from milterd.base.waiting import within
from milterd.core.decision import Reason
from milterd.core.mail import Client, Envelope, Mail, Recipient
from smtpgw.address.virtual import Expansion, Unreasonable
from smtpgw.queue.caught import Caught
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.store import NewMail, QueueError, Store, StoreFailed, StoreFull
from smtpgw.readdress import AddressRules, Copy, Readdressed
from smtpgw.tables.table import Unavailable

T = TypeVar("T")

SiteOf = Callable[[Iterable[bytes], bytes], Awaitable[str]]
"""What a mail for recipients, from a sender, waits for in the queue."""
SiteNow = Callable[[Envelope], str | None]
"""The same for a mail, where it is known without asking anybody; None where it is not."""
TellExpanded = Callable[[NewMail, Sequence[Recipient]], Sequence[NewMail]]
"""The DSNs that tell a mail's sender that recipients were expanded into others."""
LOOKUPS = 300.0
"""Seconds in which tables must have answered for all addresses of a mail's envelope or header."""
MOST_REASONS = 50
"""Steps of readdressing that the log and the store keep of a mail."""


class NoRecipients(QueueError):  # noqa: N818 - the name says what happened
    """A mail nobody is to get; whoever discards a mail does not queue it."""

    code = 554
    enhanced = "5.5.1"
    answer = "No valid recipients"


class LookupFailed(QueueError):  # noqa: N818 - the name says what happened
    """A table that cannot answer now; which, and why, is for the log."""

    answer = "Temporary lookup failure"


class ExpansionFailed(LookupFailed):
    """Tables that lead nowhere; code and words are those of Postfix's cleanup(8)."""

    enhanced = "4.6.0"
    answer = "Alias expansion error"


class Intake:
    """The door.  `wake` is called when there is something new to deliver; `site_of` says
    what a mail for these recipients waits for in the queue; without `rules` every address
    stays as it is.  `tell_expanded` makes the DSNs that rules call for."""

    def __init__(
        self,
        store: Store,
        clock: QueueClock,
        wake: Callable[[], None] = lambda: None,
        lookups: float = LOOKUPS,
    ) -> None:
        self._store, self._clock, self._limit = store, clock, lookups
        self.wake = wake
        self.site_of: SiteOf = _any_site
        self.site_now: SiteNow = _not_known
        self.rules: AddressRules | None = None
        self.tell_expanded: TellExpanded = _nobody_told

    def new_id(self) -> str:
        """A queue id; the edge asks for one at MAIL."""
        return self._store.new_id()

    def check(self, size: int = 0) -> None:
        """At MAIL: raise what `accept` would raise for a mail of `size` octets now."""
        if self._store.failed is not None:
            raise StoreFailed(self._store.failed)
        if not self._store.room(size):
            raise StoreFull("less than queue_minfree left on the queue's device")

    def expect(self, who: object) -> None:
        """This one may bring a mail any moment: those that are queued before it wait a moment for
        it, to share a commit (:mod:`smtpgw.queue.expected`)."""
        self._store.expected.add(who)

    def expect_no_more(self, who: object) -> None:
        """The mail has come, or will not."""
        self._store.expected.drop(who)

    async def headers(
        self, mail: Mail, client: Client | None = None, *, authenticated: bool = False
    ) -> tuple[Mail, tuple[Reason, ...]]:
        """The mail with the header fields that its milters are to see, and why they changed:
        from this client, or written here.  Raises LookupFailed (451)."""
        rules = self.rules
        if rules is None or rules.header_stays(mail):
            return mail, ()
        step = _rewritten(rules, mail, client, authenticated=authenticated)
        mail, steps = await _looked_up(self._limit, step)
        return mail, tuple(_reasons(steps, "header"))

    async def accept(
        self,
        mail: Mail,
        *,
        queue_id: str,
        decision: Sequence[Reason] = (),
        hold: str | None = None,
        handed: str = "",
        doomed: str = "",
        filtered: str = "",
    ) -> tuple[Reason, ...]:
        """Queue it for good.  Cancelling the caller does not undo it half-way.

        `handed` is the file that a local mail stood in, `doomed` why it is to be bounced,
        `filtered` the content filter that all of it goes to.
        Returns what was added to the decision: the steps of readdressing.
        Raises StoreFull (452), StoreFailed (451), QueueError (451), LookupFailed (451),
        NoRecipients (554).
        """
        mails = await self.made(
            mail,
            queue_id=queue_id,
            decision=decision,
            hold=hold,
            handed=handed,
            doomed=doomed,
            filtered=filtered,
        )
        if await self._store.add(*mails):
            self.wake()
        return mails[0].reasons[len(decision) :]

    async def made(
        self,
        mail: Mail,
        *,
        queue_id: str,
        decision: Sequence[Reason] = (),
        hold: str | None = None,
        handed: str = "",
        doomed: str = "",
        filtered: str = "",
    ) -> tuple[NewMail, ...]:
        """What :meth:`accept` queues, for a transaction with more in it.  Raises LookupFailed,
        NoRecipients."""
        rules, site = self.rules, None
        if rules is not None and not doomed and rules.envelope_stays(mail.envelope):
            # Most mails: nothing has to be asked, so nothing can make them wait.
            site = "" if filtered else self.site_now(mail.envelope)
        new = self.prepare(
            mail,
            queue_id=queue_id,
            decision=decision,
            hold=hold,
            site=site or "",
            handed=handed,
            doomed=doomed,
            filtered=filtered,
        )
        return await self._readdressed(new, own=False) if site is None else (new,)

    async def keep(
        self,
        mail: Mail,
        caught: Caught,
        *,
        queue_id: str,
        decision: Sequence[Reason] = (),
        handed: str = "",
    ) -> None:
        """Put it into the quarantine for good, as it is: readdressed it is when it is released.
        Raises as :meth:`accept`, and QuarantineFull (452)."""
        new = self.prepare(mail, queue_id=queue_id, decision=decision)
        kept = replace(new, caught=caught, handed=handed)
        await self._store.add(kept)

    def prepare(
        self,
        mail: Mail,
        *,
        queue_id: str,
        decision: Sequence[Reason] = (),
        hold: str | None = None,
        site: str = "",
        handed: str = "",
        doomed: str = "",
        filtered: str = "",
    ) -> NewMail:
        """The mail as it is, for a store's transaction with more in it: see `follow`."""
        if not mail.envelope.recipients:
            raise NoRecipients(f"{queue_id}: no recipients")
        return NewMail(
            queue_id=queue_id,
            mail=mail,
            arrived=self._clock.wall(),
            born=self._clock.now(),
            reasons=tuple(decision),
            hold=hold,
            site=site,
            handed=handed,
            doomed=doomed,
            filtered=filtered,
        )

    async def follow(self, own: NewMail) -> tuple[NewMail, ...]:
        """What a mail that we wrote is queued as.  Raises LookupFailed."""
        mail, reasons = await self.headers(own.mail)
        return await self._readdressed(
            replace(own, mail=mail, reasons=(*own.reasons, *reasons)), own=True
        )

    async def _readdressed(self, new: NewMail, *, own: bool) -> tuple[NewMail, ...]:
        """The mails that are to be queued for this one, which is the first of them."""
        done, mails = await _looked_up(self._limit, self._rules_applied(new, own=own))
        if done is not None and done.expanded:
            sent = replace(new.mail.envelope, sender=done.sender)
            source = replace(new, mail=replace(new.mail, envelope=sent))
            for letter in self.tell_expanded(source, done.expanded):
                mails += await self.follow(replace(letter, hold=new.hold))
        return tuple(mails)

    async def _rules_applied(
        self, new: NewMail, *, own: bool
    ) -> tuple[Readdressed | None, list[NewMail]]:
        """What tables say of the mail's addresses, if there are any, and of where it goes."""
        rules = self.rules
        if rules is None:
            return None, [await self._routed(new)]
        if new.doomed:
            done = await rules.bounced(new.mail)
        else:
            done = await rules.mail(new.mail, own=own)
        return done, [await self._routed(each) for each in self._copies(new, done)]

    def _copies(self, new: NewMail, done: Readdressed) -> Iterator[NewMail]:
        if len(done.copies) == 1 and done.copies[0] == Copy(new.mail) and not done.steps:
            yield new
            return
        steps = tuple(_reasons(done.steps, "envelope"))
        for number, each in enumerate(done.copies):
            doomed = new.doomed or each.doomed
            part = replace(new, mail=each.mail, doomed=doomed, reasons=(*new.reasons, *steps))
            if number:
                origin = Reason("rewrite", "apart", {"from_mail": new.queue_id})
                reasons = (*part.reasons, origin)
                part = replace(part, queue_id=self.new_id(), handed="", reasons=reasons)
            yield part

    async def _routed(self, new: NewMail) -> NewMail:
        """The mail with what it waits for."""
        envelope = new.mail.envelope
        if new.filtered:
            return new  # its destination is none of those that others wait for
        those = [each.address for each in envelope.recipients]
        return replace(new, site=await self.site_of(those, envelope.sender))


async def _any_site(_recipients: Iterable[bytes], _sender: bytes) -> str:
    return ""


def _not_known(_envelope: Envelope) -> str | None:
    return None


def _nobody_told(_mail: NewMail, _recipients: Sequence[Recipient]) -> Sequence[NewMail]:
    return ()


async def _rewritten(
    rules: AddressRules, mail: Mail, client: Client | None, *, authenticated: bool
) -> tuple[Mail, tuple[Expansion, ...]]:
    local = client is None or await rules.writes_here(client, authenticated=authenticated)
    return await rules.headers(mail, local=local)


async def _looked_up(limit: float, step: Coroutine[Any, Any, T]) -> T:
    """What tables say; what they cannot do, or not in time, is the answer that a client is
    given."""
    try:
        return await within(limit, step)
    except TimeoutError:
        raise LookupFailed(f"tables took more than {limit:g} s for all addresses") from None
    except Unavailable as error:
        raise LookupFailed(str(error)) from error
    except Unreasonable as error:
        raise ExpansionFailed(str(error)) from error


def _reasons(steps: Sequence[Expansion], place: str) -> Iterator[Reason]:
    """One for each step, as far as there is room."""
    for each in steps[:MOST_REASONS]:
        became = b", ".join(each.became[:MOST_REASONS])
        facts = {"in": place, "table": each.rule, "where": each.where}
        yield Reason(
            "rewrite", "changed", facts | {"from": _text(each.address), "to": _text(became)}
        )
    if len(steps) > MOST_REASONS:
        more = str(len(steps) - MOST_REASONS)
        yield Reason("rewrite", "changed", {"in": place, "further_steps": more})


def _text(octets: bytes) -> str:
    return octets[:1000].decode("utf-8", "backslashreplace")
