"""`smtpgw queue hold`, `release`, `requeue`, `delete`, `bounce`: as postsuper(1) does."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from milterd.base.spread import spread
from milterd.base.toml_file import ConfigError
from smtpgw.queue import tools
from smtpgw.queue.states import KEPT, MailState
from smtpgw.queue.store import QueuedMail
from smtpgw.queue.tools import Change
from smtpgw.queue_cli import chosen
from smtpgw.queue_cli.common import (
    CONFIG_ERROR,
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    Opened,
    complain,
    opened,
)
from smtpgw.queue_cli.filters import EVERYTHING, Given

_WAITING = frozenset({MailState.INCOMING, MailState.DEFERRED})
_UNDER_WAY = _WAITING | {MailState.ACTIVE}
_LONGEST = 200


@spread
def hold(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    why: Annotated[str, typer.Option(help="Why; the queue shows it.")] = "by hand",
    given: Given = EVERYTHING,
) -> None:
    """Keep mails in the queue until they are released; one in delivery when that ends."""
    said = _line(why)
    _run("held", ids, given, yes, _UNDER_WAY, lambda _: tools.hold(said), config, as_json)


@spread
def release(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    given: Given = EVERYTHING,
) -> None:
    """Let held mails go."""
    held = frozenset({MailState.HOLD})
    _run("released", ids, given, yes, held, lambda q: tools.release(q.now), config, as_json)


@spread
def requeue(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    given: Given = EVERYTHING,
) -> None:
    """Route mails anew, as if they had just come: tried now, attempts forgotten, a bounce that
    was asked for too.  Held ones only if they are named, or by --state hold."""
    with contextlib.ExitStack() as roads:
        make = functools.partial(_routed, roads)
        _run("requeued", ids, given, yes, _WAITING, make, config, as_json)


@spread
def delete(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    given: Given = EVERYTHING,
) -> None:
    """Delete mails.  Nobody is told."""
    all_of_them = frozenset(MailState) - {MailState.DONE} - KEPT
    _run("deleted", ids, given, yes, all_of_them, lambda _: tools.delete, config, as_json)


@spread
def bounce(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    why: Annotated[
        str, typer.Option(help="Why; the sender reads it.")
    ] = "returned by the postmaster",
    given: Given = EVERYTHING,
) -> None:
    """Return mails to their senders now, untried; one in delivery when that ends.  Held ones
    only if they are named, or by --state hold.  A gateway that runs sends the notifications."""
    said = _line(why) or "returned by the postmaster"
    _run("bounced", ids, given, yes, _UNDER_WAY, lambda q: tools.doom(q.now, said), config, as_json)


def _line(words: str) -> str:
    """What somebody typed, as a line that may stand in the queue and in a notification."""
    line = " ".join(words.split())
    return "".join(each for each in line if each.isprintable())[:_LONGEST]


def _routed(stack: contextlib.ExitStack, queue: Opened) -> Change:
    """By the tables as they are now, which are closed with the stack."""
    import asyncio  # only this command needs to know the roads

    from milterd.base import logs
    from smtpgw.addresses import open_addresses

    settings = queue.settings()
    try:
        addresses = open_addresses(settings, logs.get("tables"))
    except ConfigError as error:
        complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    runner = stack.enter_context(asyncio.Runner())

    async def site(mail: QueuedMail) -> str:
        if mail.filtered:
            return ""
        return await addresses.routes.site([each.address for each in mail.open], mail.sender)

    async def sites(mails: Sequence[QueuedMail]) -> list[str]:
        return await asyncio.gather(*map(site, mails))

    stack.callback(lambda: runner.run(addresses.close()))
    return tools.Requeue(queue.now, lambda mails: runner.run(sites(mails)))


def _run(
    verb: str,
    ids: list[str] | None,
    given: Given,
    yes: bool,
    states: frozenset[MailState],
    make: Callable[[Opened], Change],
    config: Path,
    as_json: bool,
) -> None:
    named, meant = chosen.resolve(verb, ids, given, yes, states)
    with opened(config) as queue:
        chosen.change(verb, named, meant, make, queue=queue, as_json=as_json)
