"""What a transport is told of its destinations: Postfix's parameters with a transport's name in
place of `default` (postconf(5), transport_destination_concurrency_limit and those beside it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smtpgw.delivery.windows import WindowOptions


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """`recipient_limit`: recipients of a mail in one delivery.  `destination_rate_delay`,
    `transport_rate_delay`: seconds between two deliveries, which then come one at a time."""

    windows: WindowOptions = field(default_factory=WindowOptions)
    recipient_limit: int = 50
    destination_rate_delay: float = 0.0
    transport_rate_delay: float = 0.0


@dataclass(frozen=True, slots=True)
class LimitTable:
    """The limits of each transport by name; of those without a row, `default`."""

    default: ServiceLimits = field(default_factory=ServiceLimits)
    services: Mapping[str, ServiceLimits] = field(default_factory=dict)

    def of(self, name: str) -> ServiceLimits:
        """Of a transport, or of one of its destinations (`transport:nexthop`)."""
        return self.services.get(name.partition(":")[0], self.default)
