"""`smtpgw explain` at work: settings in, a dialogue and its reasons out, for people or as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog

from milterd.base.escaping import escape
from milterd.base.toml_file import ConfigError
from smtpgw import config, wiring
from smtpgw.addresses import open_addresses
from smtpgw.config import Listener, Smtpgw
from smtpgw.dns.resolver import DnsResolver
from smtpgw.explain import Asked, Explained, Explainer
from smtpgw.lookup import CONFIG_ERROR, TEMPFAIL, Said
from smtpgw.policy_world import PolicyWorld
from smtpgw.queue_cli.common import say, say_json
from smtpgw.why_show import steps

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def run(file: Path, listener: str, asked: Asked, *, as_json: bool) -> int:
    """The exit code."""
    try:
        settings = config.load(file).smtpgw
        chosen = choose(settings, listener)
        found = asyncio.run(_explained(settings, chosen, asked))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return CONFIG_ERROR
    except LookupError as error:
        sys.stderr.write(f"{error.args[0]}\n")
        return 2
    if as_json:
        say_json(dataclasses.asdict(found))
    else:
        say("\n".join(_lines(found)))
    return _status(found)


def choose(settings: Smtpgw, name: str) -> Listener:
    """The listener of this name; the first one for no name.  Raises LookupError."""
    for each in settings.listener:
        if name in ("", each.name):
            return each
    known = ", ".join(each.name for each in settings.listener) or "none"
    raise LookupError(f"--listener: found {escape(name)}, expected one of: {known}")


@contextlib.asynccontextmanager
async def explaining(settings: Smtpgw) -> AsyncIterator[Callable[[Listener], Explainer]]:
    """What explains for each listener.  Raises ConfigError."""
    addresses = open_addresses(settings, cast("FilteringBoundLogger", Said()))
    resolver = DnsResolver(wiring.dns(settings), time.monotonic)
    world = PolicyWorld(settings, resolver)

    def explainer(listener: Listener) -> Explainer:
        ports = world.ports(settings, settings.reception(listener))
        return Explainer(settings, listener, addresses, resolver, ports, _quiet())

    try:
        world.apply(settings, addresses)
        yield explainer
    finally:
        await world.close()
        await resolver.close()
        await addresses.close()


async def _explained(settings: Smtpgw, listener: Listener, asked: Asked) -> Explained:
    async with explaining(settings) as explainer:
        return await explainer(listener).explain(asked)


def _quiet() -> FilteringBoundLogger:
    """The session's own log lines say what is shown here anyway."""
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    return cast(
        "FilteringBoundLogger", structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=level)
    )


def _lines(found: Explained) -> Iterator[str]:
    why = f" ({escape(found.reason)})" if found.reason else ""
    yield f"{escape(found.client_name)}[{found.client}] at listener {found.listener}{why}"
    for each in found.heard:
        said = f"{each.code} {each.enhanced} {each.text}".replace("  ", " ").split("\n")[0]
        yield f"{escape(each.command)}  ({each.seconds * 1000:.1f} ms)"
        yield from steps(each.steps)
        rule = f"   by {escape(each.rule)}" if each.rule else ""
        yield f"  => {escape(said)}{rule}"


def _status(found: Explained) -> int:
    codes = [each.code for each in found.heard]
    if any(each >= 500 for each in codes):
        return 1
    return TEMPFAIL if any(each >= 400 for each in codes) else 0
