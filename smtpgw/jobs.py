"""From a queued mail to what a transport is given of it.  Pure."""

from __future__ import annotations

from collections.abc import Iterable

from smtpgw.delivery.outcome import Job, Target
from smtpgw.dsn import envelope
from smtpgw.queue.store import Content, QueuedMail, QueuedRecipient


def job(mail: QueuedMail, content: Content, recipients: Iterable[QueuedRecipient]) -> Job:
    """A mail for some of its recipients."""
    return Job(
        queue_id=mail.queue_id,
        sender=mail.sender,
        sender_args=mail.sender_args,
        targets=tuple(map(_target, recipients)),
        head=content.head,
        body=content.body,
        attempt=mail.attempts + 1,
        arrived=mail.arrived,
    )


def _target(each: QueuedRecipient) -> Target:
    _, original = envelope.original_recipient(each.args) or (b"", b"")
    return Target(each.number, each.address, each.args, original)
