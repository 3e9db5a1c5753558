"""The transports `smtp:` and `relay:`: hosts in turn, until each recipient has its answer.

As smtp(8) does it.  A host that cannot be reached, or that refuses at its greeting, is
followed by the next; so is one that defers, for those recipients that it deferred.  Who
was delivered or refused is not asked for again, nor is who may have been delivered: a
connection lost after the message is a deferral.  A destination counts as unreachable
only if none of its hosts was reached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.hosts import Hosts, NoHosts
from smtpgw.delivery.nexthop import Nexthop, parse
from smtpgw.delivery.order import Host
from smtpgw.delivery.outcome import (
    TEXT_LIMIT,
    Deferred,
    Destination,
    Failed,
    Job,
    Outcome,
    Target,
    clean,
)
from smtpgw.delivery.wire import Lost


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """`relayhost`: the default nexthop, whose absence is our fault and bounces nothing.
    `smtp_fallback_relay`: where mail goes that its own hosts cannot take now.
    `smtp_mx_session_limit`: hosts that may be spoken to for one mail; 0 is no limit.
    `smtp_process_limit`: mails for all destinations together that are being sent at once.
    `trouble_time`: seconds for which an address that failed is tried after the others;
    `troubles`: of how many addresses that is known at most."""

    relayhost: str = ""
    smtp_fallback_relay: tuple[Nexthop, ...] = ()
    smtp_mx_session_limit: int = 2
    smtp_process_limit: int = 500
    trouble_time: float = 60.0
    troubles: int = 1000


class Finder(Protocol):
    """Who knows the hosts of a nexthop."""

    async def find(self, nexthop: Nexthop) -> Hosts | NoHosts:
        """What to try, or why nothing."""
        ...


class Carrier(Protocol):
    """Who speaks to one host.  Raises Lost where that was not possible at all."""

    async def deliver_to(self, hop: Hop, job: Job) -> Sequence[Outcome]:
        """One outcome for each of the job's targets."""
        ...


class Troubles:
    """Addresses that failed a short while ago; `clock` gives monotonic seconds."""

    def __init__(self, options: SmtpOptions, clock: Callable[[], float]) -> None:
        self._options, self._clock = options, clock
        self._until: OrderedDict[tuple[str, int], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def last(self, hosts: Iterable[Host]) -> list[Host]:
        """The same hosts, those in trouble behind the others."""
        return sorted(hosts, key=lambda each: self._has((str(each.address), each.port)))

    def _has(self, key: tuple[str, int]) -> bool:
        until = self._until.get(key)
        if until is not None and self._clock() >= until:
            del self._until[key]
        return key in self._until

    def failed(self, hop: Hop) -> None:
        """It could not be reached just now."""
        self._until[hop.address, hop.port] = self._clock() + self._options.trouble_time
        self._until.move_to_end((hop.address, hop.port))
        while len(self._until) > self._options.troubles:
            self._until.popitem(last=False)

    def answered(self, hop: Hop) -> None:
        """It is well again."""
        self._until.pop((hop.address, hop.port), None)


@dataclass(slots=True)
class _Attempt:
    """One mail on its way from host to host.  `left` are those for whom one more may be
    tried, `unreached` why hosts were not, `nowhere` why there were none."""

    job: Job
    left: tuple[Target, ...]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    unreached: list[Lost] = field(default_factory=list)
    nowhere: list[NoHosts] = field(default_factory=list)

    def answered(self, outcomes: Iterable[Outcome]) -> None:
        """A host has spoken: its word stands unless a later one has another."""
        again = set()
        for each in outcomes:
            self.outcomes[each.number] = each
            if isinstance(each, Deferred) and (each.spoken or each.next_host):
                again.add(each.number)
        self.left = tuple(each for each in self.left if each.number in again)

    def result(self, *, ours: bool) -> list[Outcome]:
        """An outcome for each; `ours` says that a nexthop that does not exist is our fault."""
        otherwise = self._without_host(ours=ours)
        return [
            self.outcomes.get(each.number) or replace(otherwise, number=each.number)
            for each in self.job.targets
        ]

    def _without_host(self, *, ours: bool) -> Deferred | Failed:
        """For those with whom no host has dealt."""
        later = next((each for each in self.nowhere if each.later), None)
        if self.unreached:
            texts = dict.fromkeys(each.text for each in self.unreached)
            text, enhanced = "; ".join(texts), self.unreached[-1].enhanced
        elif later is not None:
            text, enhanced = later.text, later.enhanced
        elif self.nowhere and not ours:
            return Failed(-1, clean(self.nowhere[-1].text), "", self.nowhere[-1].enhanced)
        else:
            known = self.nowhere[-1] if self.nowhere else NoHosts("4.3.5", "no host to try")
            text = f"SMTP server configuration problem: {known.text}"
            enhanced = f"4{known.enhanced[1:]}"
        return Deferred(-1, clean(text, TEXT_LIMIT), "", enhanced, unreachable=True)


class SmtpDelivery:
    """A :class:`~smtpgw.delivery.outcome.Deliverer` for `smtp` and `relay`."""

    def __init__(
        self,
        options: SmtpOptions,
        finder: Finder,
        carrier: Carrier,
        *,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._options, self._finder, self._carrier, self._log = options, finder, carrier, log
        self.troubles = Troubles(options, clock)
        self._room = asyncio.Semaphore(options.smtp_process_limit)

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        """One outcome for each target, from the host that had the last word on it."""
        async with self._room:
            return await self._deliver(destination, job)

    async def _deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        attempt = _Attempt(job, job.targets)
        fallback = self._options.smtp_fallback_relay
        own = parse(destination.nexthop)
        ours = destination.nexthop == self._options.relayhost
        for number, nexthop in enumerate((*own, *fallback)):
            ours = ours or number >= len(own)
            found = await self._finder.find(nexthop)
            for note in found.notes:
                self._log.warning("host", queue_id=job.queue_id, outcome="skipped", reason=note)
            if isinstance(found, NoHosts):
                self._nowhere(attempt, nexthop, found)
            else:
                await self._go_round(attempt, nexthop, found.hosts)
            final = isinstance(found, NoHosts) and found.refused
            # Our fallback would send it to us again: we are what it falls back from.
            if not attempt.left or final or found.mx_is_us:
                break
        return attempt.result(ours=ours)

    def _nowhere(self, attempt: _Attempt, nexthop: Nexthop, found: NoHosts) -> None:
        attempt.nowhere.append(found)
        self._log.info(
            "host",
            queue_id=attempt.job.queue_id,
            host=nexthop.text,
            outcome="none",
            status=found.enhanced,
            reason=found.text,
        )

    async def _go_round(self, attempt: _Attempt, nexthop: Nexthop, hosts: Sequence[Host]) -> None:
        sessions = 0
        for host in self.troubles.last(hosts):
            hop = Hop(nexthop.text, host.name, str(host.address), host.port)
            try:
                job = replace(attempt.job, targets=attempt.left)
                attempt.answered(await self._carrier.deliver_to(hop, job))
            except Lost as error:
                attempt.unreached.append(error)
                self.troubles.failed(hop)
                self._tell(attempt, hop, error.enhanced, error.text)
                if not error.next_host:
                    return
                continue
            self.troubles.answered(hop)
            sessions += 1
            if not attempt.left or sessions == self._options.smtp_mx_session_limit:
                return
            kept = attempt.outcomes[attempt.left[0].number]
            self._tell(attempt, hop, kept.enhanced, kept.text)

    def _tell(self, attempt: _Attempt, hop: Hop, enhanced: str, text: str) -> None:
        self._log.info(
            "host",
            queue_id=attempt.job.queue_id,
            host=str(hop),
            outcome="next",
            recipients=len(attempt.left),
            status=enhanced,
            reason=text,
        )

    async def close(self) -> None:
        return
