"""`smtpgw route` at work: addresses in, what becomes of them out, for people or as JSON."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from milterd.base.escaping import escape
from milterd.base.toml_file import ConfigError
from smtpgw import config
from smtpgw.address.resolve import AddressClass
from smtpgw.addresses import open_addresses
from smtpgw.lookup import CONFIG_ERROR, TEMPFAIL, Said
from smtpgw.route import Route, Router, Way

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from smtpgw.address.resolve import Step

STATUS = {"delivered": 0, "refused": 1, "bounced": 1, "waits": TEMPFAIL}
"""Outcome: exit code.  Of several, the greatest."""
Row = tuple[str, str, str]
"""What it is, what it says, and where that is written."""


def run(file: Path, address: str, sender: str, *, as_json: bool) -> int:
    """The exit code."""
    given = os.fsencode(address), os.fsencode(sender)
    pairs = _pairs(given[1]) if address == "-" else iter([given])
    try:
        return asyncio.run(_run(file, pairs, as_json=as_json))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return CONFIG_ERROR


def _pairs(usual: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in sys.stdin.buffer:
        address, tab, sender = line.rstrip(b"\r\n").partition(b"\t")
        if address:
            yield address, sender if tab else usual


async def _run(file: Path, pairs: Iterable[tuple[bytes, bytes]], *, as_json: bool) -> int:
    settings = config.load(file).smtpgw
    addresses = open_addresses(settings, cast("FilteringBoundLogger", Said()))
    status = 0
    try:
        router = Router(settings, addresses)
        for address, sender in pairs:
            found = await router.route(address, sender)
            text = json.dumps(dataclasses.asdict(found)) if as_json else _text(found)
            sys.stdout.write(text + "\n")
            status = max(status, STATUS[found.outcome])
    finally:
        await addresses.close()
        sys.stdout.flush()
    return status


def _text(found: Route) -> str:
    """Some lines, the addresses aligned at the left, what they say in columns."""
    rows = list(_rows(found))
    first = max(len(each[0]) for each in rows) + 2
    lines = [f"{_shown(found.address)} from <{_shown(found.sender)}>: {found.outcome}"]
    for what, says, where in rows:
        behind = f"  ({_shown(where)})" if where else ""
        lines.append(f"  {_shown(what):{first}}{_shown(says)}{behind}")
    return "\n".join(lines)


def _rows(found: Route) -> Iterator[Row]:
    if found.address_class:
        yield "class", found.address_class, ""
        yield from _steps(found.steps)
        ours = found.address_class != AddressClass.DEFAULT.value
        yield "known", found.known or ("no" if ours else "none of our domains"), ""
    yield "strangers", found.stranger, ""
    yield "own clients", found.own, ""
    for each in found.rewritten:
        lead = f"{each.address} -> " if each.address else "copy to "
        where = each.where if each.where != each.rule else ""
        yield each.rule, lead + (", ".join(each.became) or "nobody"), where
    for way in found.recipients:
        yield from _way(way, found.sender)
    if found.error:
        yield "error", found.error, ""


def _steps(steps: Iterable[Step]) -> Iterator[Row]:
    for each in steps:
        yield f"  {each.rule}", each.value, each.where


def _way(way: Way, sender: str) -> Iterator[Row]:
    origin = f", from <{way.sender}>" if way.sender != sender else ""
    yield "to", f"{way.recipient}{origin}: {way.fate}", ""
    yield "  class", way.address_class, ""
    yield from _steps(way.steps)
    yield "  delivery", way.delivery, ""
    for tls in way.tls:
        names = f" match={':'.join(tls.match)}" if tls.match else ""
        yield "  TLS", f"{tls.nexthop}: {tls.level}{names}", ""
    if way.limits is not None:
        limits = way.limits
        delays = [
            f", {seconds:g} s between two {what}"
            for seconds, what in (
                (limits.destination_rate_delay, "to a destination"),
                (limits.transport_rate_delay, "by it"),
            )
            if seconds
        ]
        most = f"{limits.concurrency} at once to a destination, {limits.recipients} recipients each"
        yield "  limits", most + "".join(delays), ""
    outside = way.generic_sender, way.generic_recipient
    if way.generic_recipient and outside != (way.sender, way.recipient):
        yield "  generic", f"<{outside[0]}> to <{outside[1]}>", ""


def _shown(text: str) -> str:
    return escape(text, 2000)
