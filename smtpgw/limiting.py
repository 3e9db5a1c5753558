"""What a session's client may do how often: the limits of its listener, and who has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from milterd.core.decision import Reply
from smtpgw.address.clients import ClientList
from smtpgw.rates.limits import ClientLimiter, ClientLimits, Counters, Excess
from smtpgw.tables.table import Unavailable


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """A listener's limits, and the clients that none of them is for."""

    limits: ClientLimits = field(default_factory=ClientLimits)
    exceptions: ClientList = field(default_factory=ClientList)


async def excepted(
    plan: LimitPlan, address: bytes, log: Callable[[], FilteringBoundLogger]
) -> bool:
    """Whether a client has no limits; also where that cannot be known, since no mail is to be
    put off for a table that fails."""
    try:
        return bool(await plan.exceptions.match(address))
    except Unavailable as error:
        log().warning("a client is not limited", table=error.name, reason=error.reason)
        return True


def limiter(
    counters: Counters | None, plan: LimitPlan, service: str, address: bytes
) -> ClientLimiter:
    """A session's limiter; without counters it counts nothing."""
    return ClientLimiter(counters, plan.limits, service, address)


def refusal(excess: Excess, listener: str) -> tuple[Reply, dict[str, object]]:
    """What a client hears that is over a limit, and what the log says beside it."""
    metrics.CLIENT_EXCESSES.labels(listener, excess.limit).inc()
    facts: dict[str, object] = {
        "limit": excess.limit,
        "reached": excess.reached,
        "ident": excess.ident,
    }
    return Reply(excess.code, excess.enhanced, excess.text), facts
