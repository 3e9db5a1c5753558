"""Peers that are slow, and peers that are many."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from milterd.lab.conform.check import Check, fail
from milterd.lab.conform.context import Context
from milterd.lab.conform.talk import Talk
from milterd.lab.link import Fault, MilterError
from milterd.wire import messages as m

_STALLED = 20
_MANY = 100


async def _stalled(context: Context) -> str:
    """Some clients stop in the middle of a packet; others are served, then these too."""
    async with AsyncExitStack() as stack:
        talks = []
        for _ in range(_STALLED):
            talk = await stack.enter_async_context(context.connected())
            await talk.reach_open(m.RcptTo)
            await talk.link.write(m.Abort().encode()[:3])
            talks.append(talk)
        await _others_are_served(context)
        for talk in talks:
            await _go_on(context, talk)
    return f"{_STALLED} stalled clients, others served meanwhile, and these afterwards"


async def _others_are_served(context: Context) -> None:
    try:
        judged = await context.judged()
    except MilterError as error:
        if error.fault is Fault.SILENT:
            fail(f"nobody is served while {_STALLED} clients stall: {error}", error.stage)
        raise
    await context.expect_same(judged, when="beside stalled clients")


async def _go_on(context: Context, talk: Talk) -> None:
    """The rest of the packet, and a message."""
    octets = talk.mta.send(m.Abort())
    await talk.link.write(octets[3:])
    await context.expect_same(await talk.message(), when="after a stall")


async def _half_negotiated(context: Context) -> str:
    """Clients that say nothing, or half of the offer."""
    async with AsyncExitStack() as stack:
        for number in range(_STALLED):
            talk = await stack.enter_async_context(context.connected())
            await talk.link.write(talk.mta.negotiate()[: number % 17])
        await _others_are_served(context)
    return f"{_STALLED} clients that never negotiate, others served"


async def _many(context: Context) -> str:
    found = await asyncio.gather(*[context.judged() for _ in range(_MANY)], return_exceptions=True)
    lost = [each for each in found if isinstance(each, BaseException)]
    if lost:
        fail(f"{len(lost)} of {_MANY} are not served: {lost[0]}")
    for each in found:
        if not isinstance(each, BaseException):
            await context.expect_same(each, when=f"one of {_MANY} at once")
    return f"{_MANY} messages: {found[0]}"


async def _held_open(context: Context) -> str:
    """All connected at once and in a message, before any goes on."""
    async with AsyncExitStack() as stack:
        talks = []
        for _ in range(_MANY):
            talk = await stack.enter_async_context(context.connected())
            talks.append(talk)
        await asyncio.gather(*[talk.reach_open(m.RcptTo) for talk in talks])
        for talk in talks:
            await talk.say(m.Abort())
        judged = await asyncio.gather(*[talk.message() for talk in talks])
    for each in judged:
        await context.expect_same(each, when=f"one of {_MANY} connections")
    return f"{_MANY} connections at once: {judged[0]}"


async def _in_a_row(context: Context) -> str:
    for _ in range(_MANY):
        async with context.connected() as talk:
            await talk.negotiate()
            await talk.quit()
    await context.serves()
    return f"{_MANY} connections, then a message"


CHECKS: tuple[Check, ...] = (
    Check(
        "slow/half-packet",
        f"{_STALLED} clients that stop in the middle of a packet",
        "A client that is slow holds up nobody else, and is served when it goes on.",
        "a Postfix smtpd is one process a client, and may be stopped at any octet",
        _stalled,
        weight=2,
    ),
    Check(
        "slow/never-negotiate",
        f"{_STALLED} clients that never negotiate",
        "A client that says nothing holds up nobody else.",
        "a Postfix smtpd is one process a client, and may be stopped at any octet",
        _half_negotiated,
        weight=2,
    ),
    Check(
        "load/100-at-once",
        f"{_MANY} clients at once, a message each",
        "Each client of a busy MTA is served, and judged as if alone.",
        "Postfix default_process_limit is 100",
        _many,
        weight=3,
    ),
    Check(
        "load/100-open",
        f"{_MANY} clients connected, each in a message",
        "Each client of a busy MTA is served, and judged as if alone.",
        "Postfix default_process_limit is 100",
        _held_open,
        weight=3,
    ),
    Check(
        "load/100-in-a-row",
        f"{_MANY} clients after each other that only negotiate",
        "What a connection takes is given back at its end.",
        "a monitor connects like that",
        _in_a_row,
        weight=3,
    ),
)
