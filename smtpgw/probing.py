"""A probe of one address: the road that mail to it would take, up to its host's answer to RCPT.

Rewriting, virtual aliases and routing are those of mail.  An alias of aliases(5), and an address
that stands for several others, is good without anybody being asked, as with Postfix; so is one
whose mail is discarded or held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping

from structlog.typing import FilteringBoundLogger

from milterd.core.mail import BytesBody, Envelope, Recipient
from smtpgw.address import form
from smtpgw.address.virtual import Unreasonable
from smtpgw.addresses import Addresses
from smtpgw.delivery.limits import LimitTable
from smtpgw.delivery.outcome import (
    Deferred,
    Delivered,
    Deliverer,
    Destination,
    Held,
    Job,
    Outcome,
    Target,
)
from smtpgw.tables.table import Unavailable
from smtpgw.verify.rules import Entry, Status
from smtpgw.verify.sender import ProbeSender

_LOCAL = b"local"
_WAIT = 30.0
"""Seconds in which a destination has to have room for a probe."""
_HEAD = b"Subject: Mail delivery status probe\r\n\r\n"
"""Only its size is ever told."""


class AddressProber:
    """A :class:`~smtpgw.verify.verifier.Prober`.  `deliverers` are by transport, and deliver
    nothing; `limits` bound the probes of a destination as they bound its deliveries; `clock`
    gives seconds since 1970."""

    def __init__(
        self,
        addresses: Addresses,
        deliverers: Mapping[str, Deliverer],
        limits: LimitTable,
        sender: ProbeSender,
        *,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._addresses, self._deliverers, self._limits = addresses, deliverers, limits
        self._sender, self._clock, self._log = sender, clock, log
        self._busy: Counter[str] = Counter()
        self._freed = asyncio.Condition()

    async def probe(self, address: bytes) -> Entry:
        """What is found out about an internal address."""
        try:
            return await self._probe(address)
        except Unavailable as error:
            return _deferred("4.3.0", f"{error.name} cannot answer now")
        except Unreasonable as error:
            return _deferred("4.6.0", f"alias expansion error: {error}")

    async def _probe(self, address: bytes) -> Entry:
        given = Envelope(self._sender.at(self._clock()), (), (Recipient(form.external(address)),))
        found = (await self._addresses.rewriter.envelope(given, copies=False)).envelope
        if len(found.recipients) != 1:
            return Entry(Status.OK, enhanced="2.0.0", text="aliased to multiple recipients")
        final = found.recipients[0].address
        internal = form.internal(final)
        resolved = await self._addresses.prober.resolve(internal, form.internal(found.sender))
        if resolved.transport == _LOCAL and not resolved.wrong and await self._alias(internal):
            return Entry(Status.OK, enhanced="2.0.0", text="aliased")
        where = self._addresses.probes.destination(resolved)
        job = Job("", found.sender, (), (Target(1, final),), _HEAD, BytesBody(b""))
        async with self._room(str(where)) as room:
            if not room:
                text = f"destination {where} is busy"
                return Entry(Status.DEFERRED, enhanced="4.4.5", text=text)
            return await self._answer(where, job)

    async def _alias(self, address: bytes) -> bool:
        aliases = self._addresses.aliases
        if aliases is None:
            return False
        expanded = await aliases.expand(address, lambda _: None)
        return expanded is not None and expanded.recipients != (address,)

    async def _answer(self, where: Destination, job: Job) -> Entry:
        (outcome,) = await self._deliverers[where.transport].deliver(where, job)
        self._log.info(
            "probe",
            recipient=job.targets[0].address.decode("utf-8", "backslashreplace"),
            destination=str(where),
            outcome=type(outcome).__name__.lower(),
            status=outcome.enhanced,
            reason=outcome.text,
        )
        return entry(outcome)

    @contextlib.asynccontextmanager
    async def _room(self, name: str) -> AsyncIterator[bool]:
        """A place among the probes of a destination, within a time; whether there is one."""
        limit = self._limits.of(name.partition(":")[0]).windows.limit
        try:
            async with asyncio.timeout(_WAIT), self._freed:
                await self._freed.wait_for(lambda: self._busy[name] < limit)
                self._busy[name] += 1
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            async with self._freed:
                self._busy[name] -= 1
                if not self._busy[name]:
                    del self._busy[name]
                self._freed.notify_all()


def entry(outcome: Outcome) -> Entry:
    """What an outcome says of an address."""
    if isinstance(outcome, Delivered | Held):
        status = Status.OK
    elif isinstance(outcome, Deferred):
        status = Status.UNREACHABLE if outcome.unreachable else Status.DEFERRED
    else:
        status = Status.BOUNCED
    return Entry(status, enhanced=outcome.enhanced, text=outcome.text)


def _deferred(enhanced: str, text: str) -> Entry:
    return Entry(Status.DEFERRED, enhanced=enhanced, text=text)
