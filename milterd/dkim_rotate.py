"""Putting a new DKIM key in the place of an old one: one step at a time, each safe by itself.

made → published (its record was seen in DNS) → signing (once no cache can lack it any more) →
retiring (another signs; mail on its way still needs the record) → retired (the record is gone).
Nothing here writes to DNS: each step says what a postmaster has to do there, and checks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from milterd.dkim_check import Published, look
from milterd.ports.dkim_dns import TextSource
from milterd.ports.dkim_state import Entry, Stage
from milterd.ports.dkim_zone import line


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: `settle`, at least from a record's first sight to its use, since a resolver may
    remember for so long that there was none (RFC 2308; a longer TTL of the record counts);
    `retire`, from a key's last signature to the end of its record; `every`, the age of a
    signing key at which the next one is made."""

    settle: int = 3_600
    retire: int = 7 * 86_400
    every: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What a run came to.

    `entries` are all keys afterwards.  `did` says what changed, and `todo` what a postmaster has
    to do now; each may be empty.  `wait_until` is the second since the epoch before which there
    is nothing to do, or 0.
    """

    entries: tuple[Entry, ...]
    entry: Entry | None
    did: str = ""
    todo: str = ""
    wait_until: int = 0


Make = Callable[[str], Entry]
"""Makes a key under a selector, and its entry."""


def step(
    entries: Sequence[Entry],
    domain: str,
    algorithm: str,
    *,
    now: int,
    dns: TextSource,
    times: Times,
    make: Make,
    taken: frozenset[str] = frozenset(),
) -> Step:
    """The next step of a domain's rotation, if it is time for it.

    `taken` are selectors that a new key must not have, besides those of its domain's entries.
    """
    own = [each for each in entries if (each.domain, each.algorithm) == (domain, algorithm)]
    at = {stage: next((each for each in own if each.stage is stage), None) for stage in Stage}
    work = _Work(tuple(entries), now, dns, times)
    if (made := at[Stage.MADE]) is not None:
        return work.published(made)
    if (published := at[Stage.PUBLISHED]) is not None:
        return work.switched(published, at[Stage.SIGNING])
    if (retiring := at[Stage.RETIRING]) is not None:
        return work.retired(retiring)
    signing = at[Stage.SIGNING]
    if signing is not None and now < signing.since + times.every:
        return Step(work.entries, signing, wait_until=signing.since + times.every)
    entry = make(_selector(now, algorithm, taken | {each.selector for each in own}))
    return Step((*work.entries, entry), entry, "a new key was made", _publish(entry))


@dataclass(frozen=True, slots=True)
class _Work:
    entries: tuple[Entry, ...]
    now: int
    dns: TextSource
    times: Times

    def published(self, entry: Entry) -> Step:
        """MADE: is the record there?"""
        found = look(_name(entry), entry.record, self.dns)
        if found.state is not Published.YES:
            seen = f"DNS says: {found.state.value} ({found.why}). "
            return Step(self.entries, entry, todo=seen + _publish(entry))
        seen_now = self._moved(entry, Stage.PUBLISHED, ttl=found.ttl)
        until = self.now + self._settling(seen_now)
        return self._step(entry, seen_now, "the record is in DNS", wait_until=until)

    def switched(self, entry: Entry, old: Entry | None) -> Step:
        """PUBLISHED: has every cache forgotten that it was not there?"""
        until = entry.since + self._settling(entry)
        if self.now < until:
            return Step(self.entries, entry, wait_until=until)
        found = look(_name(entry), entry.record, self.dns)
        if found.state is not Published.YES:
            back = self._moved(entry, Stage.MADE)
            seen = f"the record is gone from DNS ({found.state.value})"
            return self._step(entry, back, seen, todo=_publish(entry))
        signing = self._moved(entry, Stage.SIGNING)
        step_ = self._step(entry, signing, "the new key signs from the next mail on")
        if old is None:
            return step_
        retiring = self._moved(old, Stage.RETIRING)
        rest = tuple(retiring if each == old else each for each in step_.entries)
        return replace(step_, entries=rest, wait_until=self.now + self.times.retire)

    def retired(self, entry: Entry) -> Step:
        """RETIRING: may the record go, and is it gone?"""
        until = entry.since + self.times.retire
        if self.now < until:
            return Step(self.entries, entry, wait_until=until)
        found = look(_name(entry), entry.record, self.dns)
        if found.state not in (Published.NO, Published.REVOKED):
            todo = (
                f"take {_name(entry)} out of DNS, or revoke the key: "
                f"{line(_name(entry), 'v=DKIM1; p=', entry.ttl)}"
            )
            return Step(self.entries, entry, todo=todo)
        gone = self._moved(entry, Stage.RETIRED)
        did = f"the old key is out of use; {entry.key} can be deleted"
        return self._step(entry, gone, did)

    def _settling(self, entry: Entry) -> int:
        return max(entry.ttl, self.times.settle)

    def _moved(self, entry: Entry, stage: Stage, ttl: int | None = None) -> Entry:
        return replace(entry, stage=stage, since=self.now, ttl=entry.ttl if ttl is None else ttl)

    def _step(self, old: Entry, new: Entry, did: str, todo: str = "", wait_until: int = 0) -> Step:
        entries = tuple(new if each == old else each for each in self.entries)
        return Step(entries, new, did, todo, wait_until)


def _name(entry: Entry) -> str:
    return f"{entry.selector}._domainkey.{entry.domain}"


def _publish(entry: Entry) -> str:
    return f"publish: {line(_name(entry), entry.record, entry.ttl)}"


def _selector(now: int, algorithm: str, taken: frozenset[str]) -> str:
    """The day, and a letter where a day has several; Ed25519 keys end with their kind."""
    day = time.strftime("%Y%m%d", time.gmtime(now))
    kind = "" if algorithm == "rsa" else f"-{algorithm}"
    names = (f"{day}{letter}{kind}" for letter in ("", *"abcdefghijklmnopqrstuvwxyz"))
    return next(each for each in names if each not in taken)
