"""What an entry of the cache is worth, and when a probe is due.  Pure; verify(8)'s rules.

An entry counts until it expires, and is refreshed before: whoever asks meanwhile has the old
answer.  A failed probe does not take the place of a good answer that has not expired.  Nobody
probes an address again while a probe is under way, which is one for PROBE_TIME at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

PROBE_TIME = 1000.0
"""Seconds after which a probe without result counts as lost (verify.c, PROBE_TTL)."""


class Status(StrEnum):
    """What is known of an address.  UNREACHABLE is a deferral because no host answered."""

    OK = "ok"
    DEFERRED = "deferred"
    UNREACHABLE = "unreachable"
    BOUNCED = "bounced"
    UNKNOWN = "unknown"


PrimaryDown = Literal["defer", "accept", "cached"]


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Postfix's address_verify_NAME: times in seconds.  `deferred_refresh`: the same as
    negative_refresh for deferrals.  `primary_down`: what stands for an address none of whose hosts
    could be reached: "defer" says so, "accept" takes it for good, "cached" does if it was good
    within twice positive_expire."""

    positive_expire: float = 31 * 86400.0
    positive_refresh: float = 7 * 86400.0
    negative_expire: float = 3 * 86400.0
    negative_refresh: float = 3 * 3600.0
    deferred_refresh: float = 3 * 3600.0
    negative_cache: bool = True
    primary_down: PrimaryDown = "defer"


@dataclass(frozen=True, slots=True)
class Entry:
    """`probed`: since when a probe is under way, 0 for none.  `updated`: when the status was
    found, 0 for never.  `good`: when the address was last found good.  Seconds since 1970."""

    status: Status
    probed: float = 0.0
    updated: float = 0.0
    good: float = 0.0
    enhanced: str = ""
    text: str = ""


NOTHING = Entry(Status.UNKNOWN, text="Address verification in progress")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is answered, whether a probe is due, and what is to be kept: None for nothing new."""

    answer: Entry
    probe: bool = False
    keep: Entry | None = None


def ask(entry: Entry | None, now: float, options: VerifyOptions) -> Asked:
    """Somebody asks about an address."""
    known = NOTHING if entry is None or _expired(entry, now, options) else entry
    if entry is not None and known is NOTHING:
        known = replace(NOTHING, good=entry.good)
    answer = _with_primary_down(known, now, options)
    if now - known.probed <= PROBE_TIME or known.updated + _refresh(known, options) >= now:
        return Asked(answer)
    claimed = replace(known, probed=now)
    keeps = known.updated or options.negative_cache
    return Asked(answer, probe=True, keep=claimed if keeps else None)


def learn(entry: Entry | None, found: Entry, now: float, options: VerifyOptions) -> Entry | None:
    """A probe has ended: what is to be kept, None for what was there."""
    if found.status is Status.OK:
        return replace(found, probed=0.0, updated=now, good=now)
    if not options.negative_cache:
        return None
    old = entry is not None and entry.status is Status.OK
    if entry is not None and old and not _expired(replace(entry, probed=0.0), now, options):
        return None
    good = entry.good if entry is not None else 0.0
    return replace(found, probed=0.0, updated=now, good=good)


def stale(entry: Entry, now: float, options: VerifyOptions) -> bool:
    """Whether nobody can want it any more."""
    if now - entry.probed <= PROBE_TIME:
        return False
    kept = entry.good and now - entry.good <= 2 * options.positive_expire
    if options.primary_down == "cached" and kept:
        return False
    return _expired(entry, now, options)


def _expired(entry: Entry, now: float, options: VerifyOptions) -> bool:
    """While a probe is under way, what was known before still counts."""
    if now - entry.probed <= PROBE_TIME:
        return False
    good = entry.status is Status.OK
    return entry.updated + (options.positive_expire if good else options.negative_expire) < now


def _refresh(entry: Entry, options: VerifyOptions) -> float:
    if entry.status is Status.OK:
        return options.positive_refresh
    if entry.status in (Status.DEFERRED, Status.UNREACHABLE):
        return options.deferred_refresh
    return options.negative_refresh


def _with_primary_down(entry: Entry, now: float, options: VerifyOptions) -> Entry:
    if entry.status is not Status.UNREACHABLE or options.primary_down == "defer":
        return entry
    kept = entry.good and now - entry.good <= 2 * options.positive_expire
    if options.primary_down == "accept" or kept:
        return replace(entry, status=Status.OK)
    return entry
