"""`smtpgw quarantine release` and `delete`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from milterd.base.spread import spread
from smtpgw.quarantine_cli.filters import EVERYTHING, Given
from smtpgw.queue import tools
from smtpgw.queue.states import KEPT, MailState
from smtpgw.queue.tools import Change
from smtpgw.queue_cli import chosen
from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption, JsonOption, looking, opened


@spread
def release(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    given: Given = EVERYTHING,
) -> None:
    """Let mails go, each once: the milters are asked again, and only what caught it does not count.
    A gateway that runs does so; what it finds else puts the mail back, in a new entry.  A mail that
    awaits a milter goes without its judgement, and only if it is named."""
    change = tools.let_go(time.time())
    states = frozenset({MailState.QUARANTINE})
    _run("released", ids, given, yes, change, states, config, as_json)


@spread
def delete(
    ids: chosen.IdsArgument = None,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    yes: chosen.YesOption = False,
    given: Given = EVERYTHING,
) -> None:
    """Delete mails for good.  Nobody is told."""
    all_of_them = KEPT | {MailState.CORRUPT}
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
    named = chosen.named(ids, filtered=given.some)
    if named is None and not yes:
        which = "Each mail in quarantine that fits" if given.some else "Every mail in quarantine"
        chosen.confirm(f"{which} is {verb}. Go on?")
    with opened(config) as queue, looking() as progress:
        those: Iterable[str]
        if named is None:
            found = given.mails(queue, progress)
            those = (each.queue_id for each in found if each.state in states)
        else:
            those = named
        result = queue.tool.change(those, change)
    chosen.report(verb, result, as_json, strict=named is not None)
