"""TXT records for DKIM: asked with dnspython, every wait and every answer bounded, answers kept.

Only names that can exist are asked for, no search list is used.  An answer that was cut
short is asked for again by TCP; one with the wrong id or question is nobody's answer.
Several threads may ask at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import dns.resolver

PAYLOAD = 1232
"""Octets of a UDP answer that pass everywhere unfragmented (DNS flag day 2020)."""
RECORD_LIMIT = 16_384
"""Octets of the longest record used; the key of RSA-8192 takes 1,400."""
RECORDS_LIMIT = 10
"""Records of an answer that are looked at."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The TXT records of a name, each with its strings joined; `ttl` in seconds."""

    records: tuple[bytes, ...]
    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such name, or it has no TXT record."""

    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nobody could say, now: `why` in a few words."""

    why: str


Answer = Texts | Absent | NoAnswer


class TextSource(Protocol):
    """Who knows TXT records."""

    def texts(self, name: str, limit: float) -> Answer:
        """The records of a name, within `limit` seconds.  Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class DnsOptions:
    """`nameservers`: (address, port) of each, asked in this order; none means those of
    /etc/resolv.conf.  `timeout`: seconds for a question, all servers and TCP included.
    `cache`: answers kept at most; `max_ttl` and `negative_ttl`: seconds for which an answer,
    or that there is none, is believed at most."""

    nameservers: tuple[tuple[str, int], ...] = ()
    timeout: float = 5.0
    cache: int = 5_000
    max_ttl: float = 3600.0
    negative_ttl: float = 300.0


def parse_server(text: str) -> tuple[str, int]:
    """`address` or `address:port`, an IPv6 address with a port in brackets.  Raises ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
        if not bracket:
            raise ValueError(f"no ] in {text!r}")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"no port in {text!r}")
    return str(ip_address(host)), int(port)


class DnsTexts:
    """A :class:`TextSource` that asks name servers.  `clock` counts seconds, monotonic."""

    def __init__(
        self, options: DnsOptions = DnsOptions(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options, self._clock = options, clock
        self._kept: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._lock = threading.Lock()
        self._resolver: dns.resolver.Resolver | None = None

    def texts(self, name: str, limit: float) -> Answer:
        """See :meth:`TextSource.texts`.  What nobody could say is not kept."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept[0] > self._clock():
                self._kept.move_to_end(name)
                return kept[1]
        if limit <= 0:
            return NoAnswer("no time left for DNS")
        answer = self._ask(name, min(limit, self._options.timeout))
        if not isinstance(answer, NoAnswer):
            with self._lock:
                self._kept[name] = (self._clock() + answer.ttl, answer)
                self._kept.move_to_end(name)
                while len(self._kept) > self._options.cache:
                    self._kept.popitem(last=False)
        return answer

    def _ask(self, name: str, limit: float) -> Answer:
        # Only a filter that verifies pays for loading it.
        import dns.exception
        import dns.resolver

        try:
            found = self._make().resolve(
                name + ".", "TXT", search=False, lifetime=limit, raise_on_no_answer=True
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return Absent(self._options.negative_ttl)
        except dns.resolver.LifetimeTimeout:
            return NoAnswer(f"no answer within {limit:.3g} s")
        except dns.exception.DNSException as error:
            return NoAnswer(type(error).__name__)
        except (OSError, ValueError) as error:
            return NoAnswer(str(error))
        records = tuple(b"".join(each.strings) for each in list(found.rrset or ())[:RECORDS_LIMIT])
        ttl = min(float(found.rrset.ttl if found.rrset else 0), self._options.max_ttl)
        return Texts(tuple(each for each in records if len(each) <= RECORD_LIMIT), ttl)

    def _make(self) -> dns.resolver.Resolver:
        import dns.nameserver
        import dns.resolver

        with self._lock:
            if self._resolver is None:
                servers = self._options.nameservers
                made = dns.resolver.Resolver(configure=not servers)
                if servers:
                    made.nameservers = [dns.nameserver.Do53Nameserver(*each) for each in servers]
                made.use_edns(0, 0, PAYLOAD)
                made.cache = None
                self._resolver = made
            return self._resolver
