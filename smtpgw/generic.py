"""smtp_generic_maps: addresses as they are when mail leaves by SMTP (generic(5), smtp(8)).

Envelope and header fields are rewritten as they leave, and nowhere else: the queue, outcomes
and notifications speak of whom the mail was for.  What no rule changes stays to the octet, and
so does a field that a signature of the mail covers, unless it is told otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from milterd.core.mail import HeaderField, join_header, split_header
from smtpgw.address import form
from smtpgw.address.headers import RECIPIENTS, SENDERS, rewritten
from smtpgw.delivery.outcome import Deferred, Deliverer, Destination, Job, Outcome, Target
from smtpgw.rewriting import signed
from smtpgw.routes import TOGETHER
from smtpgw.tables.table import Unavailable


class Rules(Protocol):
    """The tables."""

    async def rewrite(self, address: bytes) -> bytes:
        """An internal address to an internal address.  Raises Unavailable."""
        ...


class GenericDelivery:
    """A :class:`~smtpgw.delivery.outcome.Deliverer` before another; `signed`: rewrite fields
    too that a signature covers.  A table that cannot answer defers the mail."""

    def __init__(self, behind: Deliverer, rules: Rules, *, signed: bool) -> None:
        self._behind, self._rules, self._signed = behind, rules, signed

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        try:
            job = await self._rewritten(job)
        except Unavailable as error:
            text = f"{error.name} cannot answer now"
            return [Deferred(each.number, text, "", "4.3.5") for each in job.targets]
        return await self._behind.deliver(destination, job)

    async def close(self) -> None:
        await self._behind.close()

    async def _rewritten(self, job: Job) -> Job:
        targets = []
        for number, each in enumerate(job.targets, 1):
            targets.append(await self._target(each))
            if number % TOGETHER == 0:
                await asyncio.sleep(0)  # tables in memory answer without a pause
        return replace(
            job,
            sender=await self._envelope(job.sender),
            targets=tuple(targets),
            head=await rewrite_head(job.head, self._rules.rewrite, also_signed=self._signed),
        )

    async def _target(self, each: Target) -> Target:
        return replace(each, address=await self._envelope(each.address))

    async def _envelope(self, address: bytes) -> bytes:
        """An address as it is written; one that no rule changes stays as it was written."""
        if not address:
            return address
        meant = form.internal(address)
        new = await self._rules.rewrite(meant)
        return form.external(new) if new and new != meant else address


async def rewrite_head(
    head: bytes, rewrite: Callable[[bytes], Awaitable[bytes]], *, also_signed: bool
) -> bytes:
    """A header block, with the line behind it, whose senders' and recipients' fields have
    their addresses rewritten.  A block that does not read as fields stays as it is."""
    fields, _, end = split_header(head)
    if join_header(fields) + b"\r\n" != head[:end] or end != len(head):
        return head
    kept = frozenset[bytes]() if also_signed else signed(fields)
    return join_header([await _field(each, rewrite, kept) for each in fields]) + b"\r\n"


async def _field(
    each: HeaderField, rewrite: Callable[[bytes], Awaitable[bytes]], kept: frozenset[bytes]
) -> HeaderField:
    name = each.name.lower()
    if name in kept or (name not in SENDERS and name not in RECIPIENTS):
        return each
    value = await rewritten(each.value, rewrite)
    return each if value == each.value else replace(each, value=value)
