"""Who asks the milters about mail that is released from quarantine, by the settings."""

from __future__ import annotations

import time

from structlog.typing import FilteringBoundLogger

from smtpgw import wiring
from smtpgw.chain.health import Health
from smtpgw.chain.options import EditLimits
from smtpgw.cleanup import MAIL_NAME
from smtpgw.config import Smtpgw
from smtpgw.filters import Filters
from smtpgw.local_mail import LISTENER
from smtpgw.quarantine.again import Again, Way


def again(settings: Smtpgw, health: Health, log: FilteringBoundLogger, filters: Filters) -> Again:
    """The milters of each listener, and those of local mail.  Mail of a listener that is no more
    goes past all there are."""
    limits = EditLimits(body_size=settings.message_size_limit)
    local = wiring.pickup(settings, "").local
    ways = {
        each.name: Way(
            filters.equip(wiring.milters(settings, each)), wiring.macros(settings, each), limits
        )
        for each in settings.listener
    }
    ways[LISTENER] = Way(filters.equip(local.milters), local.macros, limits)
    plain = {"j": settings.hostname.encode(), "v": MAIL_NAME}
    other = Way(filters.equip(wiring.all_milters(settings)), plain, limits)
    return Again(ways, other, health, log, time.monotonic)
