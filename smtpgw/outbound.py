"""What finds hosts and delivers to them, put together: for the courier and for `smtpgw check`."""

from __future__ import annotations

import random
import time

from milterd.base import logs
from smtpgw import wiring
from smtpgw.config import Smtpgw
from smtpgw.delivery.hosts import HostFinder
from smtpgw.delivery.local import is_local
from smtpgw.delivery.smtp import Carrier, SmtpDelivery
from smtpgw.dns.answers import Resolver
from smtpgw.dns.native import native_address


def finder(settings: Smtpgw, resolver: Resolver) -> HostFinder:
    """Who knows the hosts of a nexthop."""
    return HostFinder(
        wiring.hosts(settings),
        resolver,
        native=native_address,
        is_local=is_local,
        chance=random.random,
        clock=time.monotonic,
    )


def delivery(settings: Smtpgw, resolver: Resolver, carrier: Carrier) -> SmtpDelivery:
    """The transports `smtp:` and `relay:`."""
    return SmtpDelivery(
        wiring.smtp(settings),
        finder(settings, resolver),
        carrier,
        clock=time.monotonic,
        log=logs.get("smtp"),
    )
