"""When a triplet may pass.  Pure: the store is elsewhere.

New ones wait `delay` seconds and have to come again within `window`; one that passed stays known
until it has not been seen for `lifetime`.  A network of which `allow_after` triplets have passed
waits no more, until it has not been seen for `lifetime`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class GreylistOptions:
    """Times in seconds.  `allow_after` 0: no network is let through for what others of it did.
    `entries`: triplets and networks that are kept at most."""

    delay: float = 60.0
    window: float = 2 * 86400.0
    lifetime: float = 35 * 86400.0
    allow_after: int = 5
    ipv4: int = 24
    ipv6: int = 64
    entries: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """A triplet: when it came first and last, and whether it has passed.  Seconds since 1970."""

    first: float
    last: float
    passed: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """A client network: how many of its triplets have passed, when it was last seen, and whether
    a postmaster has let it through for good."""

    passes: int
    last: float
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wait`: seconds until a retry passes, 0 for one that passes now.  `reason` is one of new,
    early, passed, known, network, local, exempt and unavailable; `delayed`, how long ago it came
    first, at the moment it passes."""

    reason: str
    wait: float = 0.0
    delayed: float = 0.0


@dataclass(frozen=True, slots=True)
class Decided:
    """A verdict, and what is to be kept; None stays as it is."""

    verdict: Verdict
    seen: Seen | None = None
    network: Network | None = None


def decide(
    seen: Seen | None, network: Network | None, now: float, options: GreylistOptions
) -> Decided:
    """What a triplet is told that comes now."""
    if _let_through(network, now, options):
        assert network is not None  # noqa: S101 - nothing lets through what is not known
        return Decided(Verdict("network"), network=replace(network, last=now))
    if seen is None or _over(seen, now, options):
        return Decided(Verdict("new", options.delay), Seen(now, now))
    if seen.passed:
        return Decided(Verdict("known"), replace(seen, last=now))
    waited = max(now - seen.first, 0.0)
    if waited < options.delay:
        return Decided(Verdict("early", options.delay - waited), replace(seen, last=now))
    fresh = network is not None and now - network.last <= options.lifetime
    passes = network.passes + 1 if network is not None and fresh else 1
    return Decided(
        Verdict("passed", delayed=waited), Seen(seen.first, now, True), Network(passes, now)
    )


def _let_through(network: Network | None, now: float, options: GreylistOptions) -> bool:
    if network is None:
        return False
    often = 0 < options.allow_after <= network.passes
    return network.fixed or (often and now - network.last <= options.lifetime)


def _over(seen: Seen, now: float, options: GreylistOptions) -> bool:
    """Whether it counts as never seen.  A clock that was set back makes nobody wait longer than
    a new one does."""
    if seen.passed:
        return now - seen.last > options.lifetime
    return now - seen.first > options.window or now < seen.first
