"""What the lists say of a client, added up.  Pure.

Answers come one by one; the score is good at any time, and complete when all have come.  A list
that cannot answer counts nothing, as with postscreen(8).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from smtpgw.dns.answers import AddressAnswer, Found, TryAgain
from smtpgw.screen.sites import Site


@dataclass(frozen=True, slots=True)
class Listing:
    """What one list has said: its domain, the answers or why there are none, and its weight in
    all."""

    domain: str
    said: str
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """`total` of all weights; `domain`: the list that weighs most of those that count, the first
    of equals; `ttl`: seconds for which all of this is good, 0 where one of them does not say;
    `complete`: every list has answered, though not all well."""

    total: int = 0
    domain: str = ""
    ttl: float = 0.0
    complete: bool = False
    listings: tuple[Listing, ...] = ()


class Counting:
    """The answers so far to questions about one client."""

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self._waiting = {each.domain for each in sites}
        self._order = {each.domain: at for at, each in enumerate(sites)}
        self._total = 0
        self._best: tuple[int, int, str] | None = None
        self._ttl = float("inf")
        self._listings: list[Listing] = []

    def answered(self, site: Site, answer: AddressAnswer) -> None:
        """A list has answered."""
        if site.domain not in self._waiting:
            return
        self._waiting.discard(site.domain)
        self._ttl = min(self._ttl, 0.0 if isinstance(answer, TryAgain) else answer.ttl)
        if not isinstance(answer, Found):
            if isinstance(answer, TryAgain):
                self._listings.append(Listing(site.domain, answer.reason))
            return
        addresses = [each for each in answer.records if isinstance(each, IPv4Address)]
        if not addresses:
            return
        fitting = [each.weight for each in site.rules if each.fits(addresses)]
        self._total += sum(fitting)
        said = " ".join(map(str, addresses))
        self._listings.append(Listing(site.domain, said, sum(fitting)))
        if fitting:
            candidate = (-max(fitting), self._order[site.domain], site.domain)
            self._best = candidate if self._best is None else min(self._best, candidate)

    @property
    def score(self) -> Score:
        """What they come to now."""
        return Score(
            total=self._total,
            domain=self._best[2] if self._best else "",
            ttl=0.0 if self._waiting else self._ttl,
            complete=not self._waiting,
            listings=tuple(self._listings),
        )
