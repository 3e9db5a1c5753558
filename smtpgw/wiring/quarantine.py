"""From [smtpgw.quarantine] to what a worker keeps there."""

from __future__ import annotations

from smtpgw.config import Smtpgw
from smtpgw.quarantine.entry import QuarantineOptions
from smtpgw.queue.caught import Room


def options(settings: Smtpgw) -> QuarantineOptions | None:
    """A worker's share; None where what milters want in quarantine is held in the queue."""
    own = settings.quarantine
    if own.action == "hold":
        return None
    room = Room(max(1, own.max_mails // settings.workers), own.max_size // settings.workers)
    return QuarantineOptions(own.lifetime, room)
