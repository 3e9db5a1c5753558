"""What `milterd check` looks at: settings, sockets' names, keys, rules and their examples.

An error keeps the settings from being used; a warning is a peer that is not there now,
or a filter that would do nothing; a note is what is so by the settings, and easily forgotten.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from milterd import check_room
from milterd.base import row, toml_file
from milterd.base.settings import placed
from milterd.base.toml_file import ConfigError
from milterd.config import MilterdConfig, load
from milterd.config_own import OwnSettings
from milterd.core.filter import Need
from milterd.core.mail import Direction
from milterd.filters import FILTERS, CheckedFilter, Clocks, build_own
from milterd.filters.setup import SetupError
from milterd.host.options import Fault, OnFailure

_EXAMPLES = frozenset({"attachments", "headers"})
"""Filters whose own check runs their examples: what fails there is an error."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.  `filter` is empty where it is not one filter's."""

    level: Literal["error", "warning", "note"]
    filter: str
    problem: str


def build(config: MilterdConfig, name: str) -> CheckedFilter:
    """The filter of that name.  Raises :class:`SetupError`."""
    table = config.filter.present()[name]
    if isinstance(table, OwnSettings):
        return build_own(table.own_options(name))
    return FILTERS[name].build(table.options(), Clocks())


def examine(path: Path, *, offline: bool = False) -> list[Finding]:
    """Everything wrong with the settings in a file; `offline` asks no peers."""
    try:
        config = load(path)
    except ConfigError as error:
        return [Finding("error", "", str(each)) for each in error.problems]
    names = list(config.filter.present())
    if not names:
        return [Finding("error", "", f"{path}: no table [filter.NAME], so nothing would run")]
    changing: list[str] = []
    found = [each for name in names for each in _examine_filter(config, name, offline, changing)]
    short = [Finding("warning", "", str(each)) for each in check_room.problems(path, config)]
    return [*_misplaced(path, changing), *short, *found]


def _misplaced(path: Path, changing: Sequence[str]) -> list[Finding]:
    """Filters of a postmaster's own that change what dkim has signed by then: what they change is
    known only now that they are built."""
    if not changing:
        return []
    text = toml_file.read(path)
    problems = row.problems(toml_file.tables(text), changing)
    return [Finding("error", "", str(each)) for each in placed(problems, text, file=str(path))]


def matrix(path: Path) -> list[tuple[str, ...]]:
    """What becomes of mail that a filter finds bad, or cannot judge, as rows of a table."""
    config = load(path)
    rows: list[tuple[str, ...]] = [("filter", "mail that is", *(each.value for each in Direction))]
    for name, table in config.filter.present().items():
        options = config.host_options(name)
        rows += [(name, *each) for each in table.outcomes()]
        for fault, shown in _FAULTS.items():
            actions = (_unjudged(options.action(fault, each)) for each in Direction)
            rows.append((name, shown, *actions))
    return rows


_FAULTS = {Fault.ERROR: "not judged: an error", Fault.TOO_LARGE: "not judged: too large"}


def _unjudged(action: OnFailure) -> str:
    passing = action in (OnFailure.TAG, OnFailure.ACCEPT)
    return f"{action.value} (unseen)" if passing else action.value


def for_postfix(path: Path) -> str:
    """The line of main.cf that asks the filters in the right order, which nobody can check for
    us: Postfix's settings are not ours to read.  Empty where one filter alone needs no order."""
    config = load(path)
    addresses = {str(config.address(name)): name for name in config.filter.present()}
    return row.smtpd_milters(addresses) if len(addresses) > 1 else ""


def report(
    path: Path,
    findings: Sequence[Finding],
    rows: Sequence[tuple[str, ...]] = (),
    postfix: str = "",
) -> str:
    """The findings as one JSON object, for programs, and the matrix with them."""
    errors = any(each.level == "error" for each in findings)
    found = [asdict(each) for each in findings]
    titles, cells = rows[:1], rows[1:]
    table = [dict(zip(titles[0], each, strict=True)) for each in cells]
    values = {"file": str(path), "ok": not errors, "findings": found, "matrix": table}
    return json.dumps(values | ({"postfix": postfix} if postfix else {}))


def _examine_filter(
    config: MilterdConfig, name: str, offline: bool, changing: list[str]
) -> list[Finding]:
    """What is wrong with one; its name goes to `changing` if it is one's own and may change what
    signatures cover."""
    try:
        built = build(config, name)
    except SetupError as error:
        return [Finding("error", name, each) for each in error.problems]
    own = isinstance(config.filter.present()[name], OwnSettings)
    if own and built.needs & (Need.CHANGE_HEADERS | Need.CHANGE_BODY):
        changing.append(name)
    return [*_notes(config, name), *_checked(built, name, offline)]


def _notes(config: MilterdConfig, name: str) -> list[Finding]:
    if config.filter.present()[name].mode == "on":
        return []
    return [Finding("note", name, 'mode = "shadow": it decides and logs, and changes nothing')]


def _checked(built: CheckedFilter, name: str, offline: bool) -> list[Finding]:
    if name in _EXAMPLES:
        return [Finding("error", name, each) for each in built.check()]
    return [] if offline else [Finding("warning", name, each) for each in built.check()]


def main(words: Sequence[str]) -> int:
    """How the supervisor tries settings, without a command line's cost."""
    file = Path(words[0])
    sys.stdout.write(report(file, examine(file, offline=True)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
