"""The tables of new settings are opened once, and the filters built that workers run themselves,
before anybody works by them.

That is the work of a process of its own (`python -m smtpgw.trial`), which ends when it has
done so: the supervisor neither waits for a large file nor keeps what is in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from milterd.base import logs
from milterd.base.asked import ask
from milterd.base.nursery import Nursery
from milterd.base.toml_file import ConfigError, Problem
from smtpgw.addresses import open_addresses
from smtpgw.config import Loaded, Smtpgw
from smtpgw.filters import Filters
from smtpgw.tables import spec
from smtpgw.tables.catalogue import TYPES

PATIENCE = 600.0
"""Seconds in which all tables must be read."""
_COMMAND = (sys.executable, "-Pm", "smtpgw.trial")
_SHOWN = 500


def reads_files(settings: Smtpgw) -> bool:
    """Whether any setting names a table or a file."""
    for name in settings.parameters():
        if name in type(settings).model_fields:
            words = (each.lstrip("!") for each in spec.split(settings.expanded(name)))
            if any(each.startswith("/") or each.partition(":")[0] in TYPES for each in words):
                return True
    return False


async def opened(settings: Loaded, nursery: Nursery | None) -> tuple[Problem, ...]:
    """What is wrong with tables and filters, found out while others go on.  Takes as long as
    reading them takes."""
    if not (settings.filters or reads_files(settings.smtpgw)):
        return _here(settings)
    text = settings.model_dump_json().encode()
    try:
        said = await ask(nursery, _COMMAND, text, PATIENCE)
    except TimeoutError:
        return (_late(),)
    return _problems(said.status, said.output, said.errors)


def _here(settings: Loaded) -> tuple[Problem, ...]:
    """Without files there is nothing to read, and nothing to keep."""
    try:
        open_addresses(settings.smtpgw, logs.get("tables"))
    except ConfigError as error:
        return error.problems
    return ()


def _problems(status: int, said: bytes, trouble: bytes) -> tuple[Problem, ...]:
    if status == 0:
        return tuple(Problem(**each) for each in json.loads(said))
    last = trouble.decode("utf-8", "replace").strip()[-_SHOWN:]
    ended = f"exit {status}" if status >= 0 else f"signal {-status}"
    return (Problem("settings", 0, "smtpgw", f"{ended} of {_COMMAND[-1]}: {last}", "tables"),)


def _late() -> Problem:
    return Problem("settings", 0, "smtpgw", f"tables unread after {PATIENCE:g} s", "smaller ones")


def main(_words: Sequence[str] = ()) -> int:
    """Open what the settings on standard input name, and say on standard output what cannot
    be."""
    with os.fdopen(0, "rb", closefd=False) as paper:
        settings = Loaded.model_validate_json(paper.read())
    # Lines that are skipped are told by those who work by the table.
    logs.setup(settings.log.format, "error", daemon="smtpgw")
    problems: list[Problem] = []
    for step in (
        lambda: Filters.open(settings),
        lambda: open_addresses(settings.smtpgw, logs.get("tables")),
    ):
        try:
            step()
        except ConfigError as error:
            problems += error.problems
    sys.stdout.write(json.dumps([asdict(each) for each in problems]))
    sys.stdout.flush()
    logs.flush()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # What was opened is let go by the end of the process, faster than piece by piece.
    os._exit(status)
