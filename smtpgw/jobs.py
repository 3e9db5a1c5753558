"""From a queued mail to what a transport is given of it.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

from smtpgw.delivery.outcome import Job, Target
from smtpgw.dsn import envelope
from smtpgw.queue.store import Content, QueuedMail, QueuedRecipient


def job(mail: QueuedMail, content: Content, recipients: Iterable[QueuedRecipient]) -> Job:
    """A mail for some of its recipients."""
    return Job(
        mail.queue_id,
        mail.sender,
        mail.sender_args,
        tuple([target(each) for each in recipients]),
        content.head,
        content.body,
        mail.attempts + 1,
        mail.arrived,
    )


def target(each: QueuedRecipient) -> Target:
    """One recipient."""
    if not each.args:
        return Target(each.number, each.address)
    _, original = envelope.original_recipient(each.args) or (b"", b"")
    return Target(each.number, each.address, each.args, original)
