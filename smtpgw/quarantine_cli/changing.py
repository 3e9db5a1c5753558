"""`smtpgw quarantine release` and `delete`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import typer

from smtpgw.quarantine_cli import filters
from smtpgw.quarantine_cli.filters import Given
from smtpgw.queue import tools
from smtpgw.queue.states import MailState
from smtpgw.queue.tools import Change
from smtpgw.queue_cli import chosen
from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption, JsonOption, looking, opened


def release(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    filter_: filters.FilterOption = None,
    rule: filters.RuleOption = None,
    sender: filters.SenderOption = None,
    recipient: filters.RecipientOption = None,
    older: filters.OlderOption = "",
    younger: filters.YoungerOption = "",
) -> None:
    """Let mails go, each once: the milters are asked again, and only what caught it does not count.
    A gateway that runs does so; what it finds else puts the mail back, in a new entry."""
    given = Given(filter_, rule, sender, recipient, older, younger)
    change = tools.let_go(time.time())
    states = frozenset({MailState.QUARANTINE})
    _run("released", ids, given, yes, change, states, config, as_json)


def delete(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    filter_: filters.FilterOption = None,
    rule: filters.RuleOption = None,
    sender: filters.SenderOption = None,
    recipient: filters.RecipientOption = None,
    older: filters.OlderOption = "",
    younger: filters.YoungerOption = "",
) -> None:
    """Delete mails for good.  Nobody is told."""
    given = Given(filter_, rule, sender, recipient, older, younger)
    all_of_them = frozenset({MailState.QUARANTINE, MailState.RELEASING, MailState.CORRUPT})
    _run("deleted", ids, given, yes, tools.dispose, all_of_them, config, as_json)


def _run(
    verb: str,
    ids: list[str] | None,
    given: Given,
    yes: bool,
    change: Change,
    states: frozenset[MailState],
    config: Path,
    as_json: bool,
) -> None:
    """What is named, or all that fits: for that, a person is asked once more."""
    named = bool(ids) and ids != [chosen.ALL]
    if named and ids and (given.some or chosen.ALL in ids):
        raise typer.BadParameter("expected ids, or ALL and filters, not both")
    if not (ids or given.some):
        raise typer.BadParameter("expected ids, ALL, or filters (see --help)")
    if not named and not yes:
        which = "Each mail in quarantine that fits" if given.some else "Every mail in quarantine"
        chosen.confirm(f"{which} is {verb}. Go on?")
    with opened(config) as queue, looking() as progress:
        if named and ids:
            those: Iterable[str] = list(chosen.read(ids))
        else:
            found = given.mails(queue, progress)
            those = (each.queue_id for each in found if each.state in states)
        result = queue.tool.change(those, change)
    chosen.report(verb, result, as_json, strict=named)
