"""Look at everything the gateway will need, before it does: `smtpgw check`.

Each finding is one thing that was looked at.  Nothing is changed: no socket is
left behind, no directory made, no mail sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from milterd.base import cores, logs, openfiles, sockets
from milterd.base.row import INSIDE
from milterd.base.toml_file import ConfigError
from milterd.wire.mta import MtaConnection
from smtpgw import (
    check_certificates,
    check_filters,
    check_logins,
    check_tables,
    config,
    outbound,
    wiring,
)
from smtpgw.chain import connecting
from smtpgw.chain.faults import MilterFault
from smtpgw.config import GatewaySettings, Milter, Smtpgw
from smtpgw.delivery.hosts import NoHosts
from smtpgw.delivery.nexthop import parse
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.pool import parse_nexthop
from smtpgw.delivery.router import parse_destination
from smtpgw.dns.resolver import DnsResolver
from smtpgw.finding import Finding, Level
from smtpgw.queue.salvage import ASIDE
from smtpgw.wiring import open_files
from smtpgw.wiring import screen as wiring_screen

PATIENCE = 5.0
"""Seconds for a peer to answer."""


def examine(path: Path) -> tuple[list[Finding], bool]:
    """Look at the settings in the file and at all they name; the findings, and
    whether the settings themselves can be used."""
    try:
        settings = config.load(path)
        wiring.check(settings.smtpgw)
        asyncio.run(wiring_screen.check(settings.smtpgw, logs.get("check")))
    except ConfigError as error:
        return [Finding("settings", "error", str(each)) for each in error.problems], False
    found = [Finding("settings", "ok", str(path))]
    found += _listeners(settings.smtpgw)
    found += _queue(settings.smtpgw.queue.directory)
    found += _set_aside(settings.smtpgw.queue.directory)
    found += _metrics(settings)
    found += _open_files(settings.smtpgw)
    found += _processors(settings.smtpgw)
    tables, usable = check_tables.examine(settings.smtpgw, path)
    inside, fit = check_filters.examine(settings, path)
    return [*found, *tables, *inside, *asyncio.run(_peers(settings.smtpgw))], usable and fit


def _listeners(settings: Smtpgw) -> list[Finding]:
    if not settings.listener:
        return [Finding("listener", "error", "no [[smtpgw.listener]]: nothing to listen at")]
    found = [_listener(each.name, each.address) for each in settings.listener]
    return [*found, *check_certificates.examine(settings, time.time())]


def _listener(name: str, text: str) -> Finding:
    subject, address = f"listener {name}", sockets.parse(text)
    if address.kind == "unix":
        return _unix_listener(subject, address.path)
    family = socket.AF_INET6 if address.kind == "inet6" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            used = Finding(subject, "warning", f"{text} is in use (by the gateway, if it runs)")
            in_use = error.errno == 98  # EADDRINUSE
            return used if in_use else Finding(subject, "error", f"{text}: {error.strerror}")
    return Finding(subject, "ok", f"{text} is free")


def _unix_listener(subject: str, path: str) -> Finding:
    if sockets.alive(path):
        return Finding(subject, "warning", f"{path} is in use (by the gateway, if it runs)")
    there = Path(path).parent
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(subject, "error", f"{there}: this user may not make a socket there")
    return Finding(subject, "ok", f"{path} is free")


def _queue(directory: Path) -> list[Finding]:
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [Finding("queue", "error", f"{there}: not a directory this user may write to")]
    status = there.stat()
    if there == directory and status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        mode = stat.S_IMODE(status.st_mode)
        return [Finding("queue", "warning", f"{directory}: mode {mode:04o}, should be 0700")]
    detail = str(directory) if there == directory else f"{directory} will be made"
    return [Finding("queue", "ok", detail)]


def _set_aside(directory: Path) -> list[Finding]:
    """What is left of databases that were broken, and may hold mail that could not be read."""
    with contextlib.suppress(OSError):
        found = sorted(directory.glob(f"*/{ASIDE}"))
        return [
            Finding("queue", "warning", f"{each}: was broken; see docs/queue.md") for each in found
        ]
    return []


def _metrics(settings: GatewaySettings) -> list[Finding]:
    return [Finding("metrics", "ok", settings.metrics.smtpgw or "turned off")]


def _open_files(settings: Smtpgw) -> list[Finding]:
    """This process has the hard limit that the workers have, if the same starts them."""
    wanted = open_files.wanted(settings)
    most = openfiles.at_most(wanted)
    if most >= wanted:
        return []
    text = (
        f"default_process_limit: found {settings.default_process_limit}, for which a worker may "
        f"need {wanted} open files, expected fewer, as the hard limit is {most}; or raise that: "
        "LimitNOFILE= in smtpgw's unit, ulimit -Hn in a shell"
    )
    return [Finding("open files", "warning", text)]


def _processors(settings: Smtpgw) -> list[Finding]:
    """This process has the processors that the workers have, as above."""
    there = cores.usable()
    if not settings.worker_cpu_affinity or settings.workers == there:
        return []
    text = (
        f"worker_cpu_affinity: found workers = {settings.workers}, expected {there}, one for each "
        "processor; with any other number it does nothing"
    )
    return [Finding("processors", "warning", text)]


async def _peers(settings: Smtpgw) -> list[Finding]:
    default = settings.delivery.default or settings.mailbox_transport
    texts = {default, *settings.transport.values()}
    outside = (each for each in settings.milter if not each.address.startswith(INSIDE))
    work: list[Awaitable[Finding]] = [_milter(settings, each) for each in outside]
    work += [_destination(settings, parse_destination(each), each) for each in sorted(texts)]
    return [*await asyncio.gather(*work), *await check_logins.examine(settings)]


async def _milter(settings: Smtpgw, milter: Milter) -> Finding:
    subject = f"milter {milter.name}"
    worse: Level = "warning" if milter.default_action == "accept" else "error"
    options = next(each for each in wiring.all_milters(settings) if each.name == milter.name)
    connection = MtaConnection()
    try:
        found = await connecting.connect(
            options.endpoint, connection, connecting=PATIENCE, patience=PATIENCE
        )
    except MilterFault as fault:
        detail = f"{milter.address}: {fault.detail}; mail gets {milter.default_action}"
        return Finding(subject, worse, detail)
    found.close()
    return Finding(subject, "ok", f"{milter.address}: negotiated")


async def _destination(settings: Smtpgw, destination: Destination, text: str) -> Finding:
    subject = f"delivery {text}"
    match destination.transport:
        case "lmtp":
            return await _dialogue(subject, parse_nexthop(destination.nexthop))
        case "smtp" | "relay" if destination.nexthop:
            return await _hosts(subject, settings, destination.nexthop)
        case "maildir":
            return _maildir(subject, Path(destination.nexthop))
        case _:
            return Finding(subject, "ok", "needs nobody")


def _maildir(subject: str, directory: Path) -> Finding:
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if os.access(there, os.W_OK | os.X_OK):
        return Finding(subject, "ok", f"{there} may be written to")
    return Finding(subject, "error", f"{there}: this user may not write there")


async def _hosts(subject: str, settings: Smtpgw, nexthop: str) -> Finding:
    """The first of the hosts that mail would go to."""
    finder = outbound.finder(settings, DnsResolver(wiring.dns(settings), time.monotonic))
    found = await finder.find(parse(nexthop)[0])
    if isinstance(found, NoHosts):
        return Finding(subject, "warning" if found.later else "error", found.text)
    first = found.hosts[0]
    there = await _dialogue(subject, (str(first.address), first.port))
    return Finding(subject, there.level, f"{first.name}[{first.address}]: {there.detail}")


async def _dialogue(subject: str, where: str | tuple[str, int]) -> Finding:
    open_: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
    if isinstance(where, str):
        open_ = lambda: asyncio.open_unix_connection(where)  # noqa: E731 - two forms of one act
    else:
        open_ = lambda: asyncio.open_connection(*where)  # noqa: E731 - two forms of one act
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await open_()
            banner = await reader.readline()
    except TimeoutError:
        return Finding(subject, "warning", f"no greeting within {PATIENCE:g} s")
    except OSError as error:
        return Finding(subject, "warning", f"{error.strerror or error}; mail would wait")
    writer.write(b"QUIT\r\n")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    greeting = banner.decode("ascii", "replace").strip()[:100]
    level: Level = "ok" if banner.startswith(b"220") else "warning"
    return Finding(subject, level, greeting or "closed without a greeting")
