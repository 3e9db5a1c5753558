"""What MAIL and RCPT are answered for their addresses' sake, as Postfix's smtpd(8) does it.

`postmaster` alone is always taken.  A sender of ours whom nobody knows is refused at RCPT
(reject_unlisted_sender, with smtpd_delay_reject).  Strangers may have recipients of our address
classes only (:mod:`smtpgw.policy.relay`), and nobody one that his class does not list
(reject_unlisted_recipient), our own clients included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from milterd.core.decision import Reply
from smtpgw.address.known import Known, Unknown
from smtpgw.address.resolve import AddressClass, Resolved, Resolver, Step
from smtpgw.policy import relay

_POSTMASTER = b"postmaster"
BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")


@dataclass(frozen=True, slots=True)
class RecipientOptions:
    """Postfix's parameters of the same names; `strangers` says whether clients that are not ours
    may have recipients at all: at a submission listener they may not."""

    strangers: bool = True
    smtpd_reject_unlisted_recipient: bool = True
    smtpd_reject_unlisted_sender: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """`source` is the rule, `decided` which parameters and tables it went by, for the log."""

    source: str
    reply: Reply
    decided: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipients:
    """The rules.  All addresses are internal ones (:mod:`smtpgw.address.form`)."""

    options: RecipientOptions
    resolver: Resolver
    recipients: Known
    senders: Known

    async def mail(self, sender: bytes) -> Refusal | None:
        """Why MAIL is refused.  Raises Unavailable."""
        if not sender:
            return None
        return Refusal("syntax", BAD_SENDER) if await self.resolver.wrong(sender) else None

    async def rcpt(self, recipient: bytes, sender: bytes, *, own: bool) -> Refusal | None:
        """Why RCPT is refused to a client, `own` if it is one of ours.  Raises Unavailable."""
        if recipient.lower() == _POSTMASTER:
            return None
        resolved = await self.resolver.resolve(recipient, sender)
        if resolved.wrong:
            return Refusal("syntax", BAD_RECIPIENT, _told(resolved.steps))
        return (
            await self._unlisted_sender(sender, recipient)
            or self._relayed(recipient, resolved, own)
            or await self._unlisted_recipient(recipient, resolved)
        )

    def _relayed(self, recipient: bytes, resolved: Resolved, own: bool) -> Refusal | None:
        if own or (self.options.strangers and relay.authorized(resolved)):
            return None
        why = _told(resolved.steps)
        if not self.options.strangers:
            why = ("profile: submission",)
        elif resolved.address_class is AddressClass.DEFAULT:
            why = ("relay_domains: none of our domains", *why)
        elif resolved.routed:
            why = ("the local part says how to send on", *why)
        return Refusal("relay", relay.denied(_shown(recipient)), why)

    async def _unlisted_sender(self, sender: bytes, recipient: bytes) -> Refusal | None:
        if not self.options.smtpd_reject_unlisted_sender or not sender:
            return None
        resolved = await self.resolver.resolve(sender, recipient)
        unknown = await self.senders.check(resolved)
        if unknown is None:
            return None
        text = f"<{_shown(sender)}>: Sender address rejected: {unknown.text}"
        reply = Reply(unknown.code, unknown.enhanced, text)
        return Refusal("reject_unlisted_sender", reply, _listed(unknown, resolved))

    async def _unlisted_recipient(self, recipient: bytes, resolved: Resolved) -> Refusal | None:
        if not self.options.smtpd_reject_unlisted_recipient:
            return None
        unknown = await self.recipients.check(resolved)
        if unknown is None:
            return None
        text = f"<{_shown(recipient)}>: Recipient address rejected: {unknown.text}"
        reply = Reply(unknown.code, unknown.enhanced, text)
        return Refusal("reject_unlisted_recipient", reply, _listed(unknown, resolved))


def lookup_failure(address: bytes) -> Reply:
    """For what a table cannot answer now; what the table says is for the log."""
    return Reply(451, "4.3.0", f"<{_shown(address)}>: Temporary lookup failure")


def _listed(unknown: Unknown, resolved: Resolved) -> tuple[str, ...]:
    own = (f"{unknown.rule}: not there",) if unknown.rule else ()
    return (*_told(resolved.steps), *own)


def _told(steps: Iterable[Step]) -> tuple[str, ...]:
    """Each parameter, what it said, and where it says so."""
    return tuple(
        f"{each.rule}: {each.value} ({each.where})" if each.where else f"{each.rule}: {each.value}"
        for each in steps
    )


def _shown(address: bytes) -> str:
    text = address.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)
