"""What a client may do how often, and what it hears beyond that (smtpd(8), anvil(8)).

Counting never costs a client more than its counters' own bound, and what cannot be counted is
not refused.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Protocol

from smtpgw.rates.counts import Event, Usage


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How much one client may have (postconf(5), the names with smtpd_client_ before).

    0 is no limit.  Rates are events in a time unit of the counters.  The prefix lengths are bits
    of an address; clients that agree in them are one client.
    """

    connection_count_limit: int = 50
    connection_rate_limit: int = 0
    message_rate_limit: int = 0
    recipient_rate_limit: int = 0
    new_tls_session_rate_limit: int = 0
    auth_rate_limit: int = 0
    ipv4_prefix_length: int = 32
    ipv6_prefix_length: int = 84

    @property
    def any(self) -> bool:
        """Whether anything is limited, so that connections are worth counting."""
        return bool(
            self.connection_count_limit or self.connection_rate_limit or self.message_rate_limit
            or self.recipient_rate_limit or self.new_tls_session_rate_limit or self.auth_rate_limit
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Excess:
    """A client is over a limit: what it hears, and for the log which limit, the number reached,
    and whom it was counted for."""

    code: int
    enhanced: str
    text: str
    limit: str
    reached: int
    ident: str


class Ticket(Protocol):
    """A connection that is counted."""

    @property
    def usage(self) -> Usage: ...

    async def release(self) -> None:
        """It is over."""
        ...


class Counters(Protocol):
    """Where clients are counted.  None of it raises, or waits longer than a short bound."""

    async def connect(self, ident: str) -> Ticket: ...

    async def add(self, event: Event, ident: str) -> int: ...

    async def rate(self, event: Event, ident: str) -> int: ...


class ClientLimiter:
    """One session's client.  `service` is the listener's name: each counts for itself, as
    services in master.cf do.  One that is `exempt` is not counted."""

    def __init__(
        self, counters: Counters | None, limits: ClientLimits, service: str, address: bytes
    ) -> None:
        self.exempt = not (address and limits.any and counters)
        self.usage = Usage(0, 0)
        self._counters, self.limits = counters, limits
        self._client = address.decode("ascii", "replace")
        self._ident = "" if self.exempt else f"{service}:{network(self._client, limits)}"
        self._ticket: Ticket | None = None
        self._closed = False

    async def connect(self) -> Excess | None:
        """It is there: count it until :meth:`close`."""
        if self.exempt or self._counters is None or self._ticket is not None:
            return None
        ticket = self._ticket = await self._counters.connect(self._ident)
        self.usage = usage = ticket.usage
        if self._closed:  # it went while it was counted
            await self.close()
        text = f"Error: too many connections from {self._client}"
        for name, reached, limit in (
            ("connection_count", usage.count, self.limits.connection_count_limit),
            ("connection_rate", usage.rate, self.limits.connection_rate_limit),
        ):
            if 0 < limit < reached:
                return self._excess(421, "4.7.0", text, name, reached)
        return None

    async def message(self) -> Excess | None:
        """MAIL."""
        limit = self.limits.message_rate_limit
        if not limit:
            return None
        text = f"Error: too much mail from {self._client}"
        return await self._event(Event.MESSAGE, limit, 450, "4.7.1", text)

    async def recipient(self) -> Excess | None:
        """RCPT."""
        limit = self.limits.recipient_rate_limit
        if not limit:
            return None
        text = f"Error: too many recipients from {self._client}"
        return await self._event(Event.RECIPIENT, limit, 450, "4.7.1", text)

    async def auth(self) -> Excess | None:
        """AUTH, before it is looked at."""
        text = f"Error: too many AUTH commands from {self._client}"
        limit = self.limits.auth_rate_limit
        return await self._event(Event.AUTH, limit, 450, "4.7.1", text)

    async def starttls(self) -> Excess | None:
        """STARTTLS, before the handshake; nothing is counted."""
        limit = self.limits.new_tls_session_rate_limit
        if self.exempt or self._counters is None or not limit:
            return None
        reached = await self._counters.rate(Event.NEWTLS, self._ident)
        if reached <= limit:
            return None
        text = f"Error: too many new TLS sessions from {self._client}"
        return self._excess(454, "4.7.0", text, "newtls_rate", reached)

    async def newtls(self) -> Excess | None:
        """A full handshake, that of a resumed session not; also one that failed."""
        text = f"Error: too many new TLS sessions from {self._client}"
        limit = self.limits.new_tls_session_rate_limit
        return await self._event(Event.NEWTLS, limit, 421, "4.7.0", text)

    def close_now(self) -> bool:
        """As :meth:`close`, where nobody has to hear of it; else nothing has happened."""
        if self._ticket is not None:
            return False
        self._closed = True
        return True

    async def close(self) -> None:
        """It is gone."""
        self._closed = True
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            await ticket.release()

    async def _event(
        self, event: Event, limit: int, code: int, enhanced: str, text: str
    ) -> Excess | None:
        if self.exempt or self._counters is None or not limit:
            return None
        reached = await self._counters.add(event, self._ident)
        if reached <= limit:
            return None
        return self._excess(code, enhanced, text, f"{event.value}_rate", reached)

    def _excess(self, code: int, enhanced: str, text: str, limit: str, reached: int) -> Excess:
        return Excess(code, enhanced, text, limit, reached, self._ident)


def network(address: str, limits: ClientLimits) -> str:
    """Whom an address is counted for: itself, or its network.  What is no address stays."""
    return _network(address, limits.ipv4_prefix_length, limits.ipv6_prefix_length)


@functools.lru_cache(2000)
def _network(address: str, four: int, six: int) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    length = four if found.version == 4 else six
    if length == found.max_prefixlen:
        return str(found)
    return str(ipaddress.ip_network((found, length), strict=False))
