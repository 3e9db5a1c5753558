"""What restrictions need of the world.  Who is not there is None: a restriction that needs it is
answered 451 then, as is one whose service cannot be reached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from smtpgw.dns.answers import Resolver
from smtpgw.policy.facts import Facts


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known about an address: mail for it is taken (`ok`), refused (`bounced`), refused
    for now (`deferred`), or nothing is known yet (`unknown`).  `code` and `text` are those of
    the server that was asked."""

    status: Literal["ok", "bounced", "deferred", "unknown"]
    code: int = 0
    text: str = ""


class Verifier(Protocol):
    """Address verification (verify(8))."""

    async def verify(self, address: bytes, *, sender: bool) -> Verified:
        """What is known about an internal address after asking, for as long as
        address_verify_poll_count and address_verify_poll_delay say.  Raises ServiceDown."""
        ...


class ServiceDown(Exception):  # noqa: N818 - what callers say: the service is down
    """Nobody answers, or not in a way that can be understood."""


class PolicyService(Protocol):
    """Postfix's policy protocol (SMTPD_POLICY_README)."""

    async def ask(self, service: str, attributes: Mapping[str, str]) -> str:
        """An access(5) action.  `service` is what stands behind check_policy_service:
        `inet:host:port`, `unix:path` or `{ endpoint, name=value... }`.  Raises ServiceDown."""
        ...


class Greylist(Protocol):
    """check_greylist."""

    async def check(self, facts: Facts) -> str:
        """An access(5) action: `DUNNO`, or `DEFER_IF_PERMIT text`.  Raises ServiceDown."""
        ...


class Throttle(Protocol):
    """check_throttle."""

    async def check(self, name: str, facts: Facts) -> str:
        """An access(5) action of the throttle of that name.  Raises ServiceDown."""
        ...


Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Ports:
    """All of them.  `clock` measures seconds, `wall` is for `$localtime` and is seconds since the
    epoch.  `probes` says whether an internal address is the sender of our own probes, to whom mail
    is refused for nothing: two servers that probe each other would refuse both otherwise."""

    resolver: Resolver | None = None
    verifier: Verifier | None = None
    policy_service: PolicyService | None = None
    greylist: Greylist | None = None
    throttle: Throttle | None = None
    probes: Callable[[bytes], bool] | None = None
    sleep: Sleep = asyncio.sleep
    clock: Callable[[], float] = time.perf_counter
    wall: Callable[[], float] = time.time
