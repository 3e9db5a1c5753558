"""`smtpgw greylist`: what the greylist knows, and what a postmaster wants of it.

Exit codes: 0 done; 1 nothing of the kind is there, or the file cannot be used; 78 the settings
cannot be used (sysexits.h, EX_CONFIG).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from milterd.base.escaping import escape
from smtpgw.queue_cli.common import (
    CONFIG_ERROR,
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    complain,
    moment,
    say,
    say_json,
)

if TYPE_CHECKING:
    from smtpgw.greylist.store import GreylistStore

T = TypeVar("T")
greylist = typer.Typer(help="What the greylist knows.", no_args_is_help=True)
FILE = "greylist.sqlite"


@greylist.command("list", epilog="Example: smtpgw greylist list --networks --json")
def list_(
    config: ConfigOption = DEFAULT_FILE,
    networks: Annotated[
        bool, typer.Option("--networks", help="Networks instead of triplets.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """List who has been seen, the last first: network, sender, recipient, when first and last, and
    whether that mail passes; or networks, and how often mail of theirs has passed."""
    rows = _networks if networks else _triplets
    for row in _run(config, lambda store: rows(store, limit)):
        if as_json:
            say_json(row)
        else:
            say("\t".join(str(each) for each in row.values()))


@greylist.command(epilog="Example: smtpgw greylist allow 192.0.2.0/24")
def allow(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="A network, or an address.")],
    config: ConfigOption = DEFAULT_FILE,
) -> None:
    """Let a client network pass for good, and all that is in it; `remove` takes it back."""
    where = _network(network, config)
    _run(config, lambda store: store.allow(where))


@greylist.command(epilog="Example: smtpgw greylist remove --sender a@example.org")
def remove(
    config: ConfigOption = DEFAULT_FILE,
    network: Annotated[
        str | None, typer.Option("--network", help="A network, or an address.")
    ] = None,
    sender: Annotated[
        str | None, typer.Option("--sender", help="A sender as it is listed.")
    ] = None,
    recipient: Annotated[
        str | None, typer.Option("--recipient", help="A recipient as it is listed.")
    ] = None,
) -> None:
    """Forget all that has everything that is given; a network alone is forgotten itself too."""
    if network is None and sender is None and recipient is None:
        raise typer.BadParameter("expected --network, --sender or --recipient")
    where = None if network is None else _network(network, config)
    count = _run(
        config, lambda store: store.remove(network=where, sender=sender, recipient=recipient)
    )
    say(f"{count} forgotten")
    raise typer.Exit(0 if count else 1)


def _network(text: str, config: Path) -> str:
    """A network, which has to be one that the settings can tell from others; where an address is
    given alone, the one that they cut of it."""
    from smtpgw.greylist import keys

    try:
        whole = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    ipv4, ipv6 = _prefixes(config)
    bits = ipv4 if whole.version == 4 else ipv6
    if "/" not in text:
        return keys.network(text, ipv4=ipv4, ipv6=ipv6) or str(whole)
    if whole.prefixlen > bits:
        key = f"smtpgw.greylist.ipv{whole.version}_prefix"
        raise typer.BadParameter(
            f"{text} is less than the greylist tells apart: expected /{bits} or wider ({key})"
        )
    return str(whole)


def _prefixes(config: Path) -> tuple[int, int]:
    from milterd.base.toml_file import ConfigError
    from smtpgw.config import load

    try:
        found = load(config).smtpgw.greylist
    except ConfigError as error:
        complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    return found.ipv4_prefix, found.ipv6_prefix


def _run(config: Path, work: Callable[[GreylistStore], Coroutine[None, None, T]]) -> T:
    """What is found in the greylist of these settings; errors become one line and an exit code."""
    import asyncio
    import time

    from milterd.base.toml_file import ConfigError
    from smtpgw import queue_place
    from smtpgw.greylist.rules import GreylistOptions
    from smtpgw.greylist.store import GreylistStore
    from smtpgw.stores.shared import StoreDown

    try:
        path = queue_place.directory(config) / FILE
    except ConfigError as error:
        complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    if not path.exists():
        complain(f"{path}: no mail was ever asked to come again")
        raise typer.Exit(1)

    async def done() -> T:
        store = GreylistStore(str(path), GreylistOptions(), time.time)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(done())
    except StoreDown as error:
        complain(error)
        raise typer.Exit(1) from None


async def _triplets(store: GreylistStore, limit: int) -> list[dict[str, object]]:
    return [
        {
            "network": each.triplet.network,
            "sender": escape(each.triplet.sender),
            "recipient": escape(each.triplet.recipient),
            "first": moment(each.seen.first),
            "last": moment(each.seen.last),
            "passes": each.seen.passed,
        }
        for each in await store.triplets(limit)
    ]


async def _networks(store: GreylistStore, limit: int) -> list[dict[str, object]]:
    return [
        {
            "network": each.network,
            "passed": "always" if each.known.fixed else each.known.passes,
            "last": moment(each.known.last),
        }
        for each in await store.networks(limit)
    ]
