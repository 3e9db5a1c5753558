"""What the queue's commands share: the queue itself, exit codes, and safe output.

Nothing of a mail reaches the terminal unescaped.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.base.escaping import escape
from milterd.base.toml_file import ConfigError
from smtpgw import queue_place
from smtpgw.queue import ids
from smtpgw.queue.search import Progress, quiet
from smtpgw.queue.states import IllegalMove
from smtpgw.queue.store import NotFound, QueueError
from smtpgw.queue.tools import QueueTool, require_access

if TYPE_CHECKING:
    from smtpgw.config import Smtpgw

CONFIG_ERROR = 78
DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", envvar="GATEPOST_CONFIG", help="The settings file."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def queue_id(value: str) -> str:
    """Before an id is anything else, it is letters and digits."""
    if not ids.valid(value):
        raise typer.BadParameter("expected a queue id: 10 to 16 letters and digits")
    return value


def after_id(value: str) -> str:
    """The option by which a list goes on: an id, or nothing."""
    return queue_id(value) if value else value


@dataclass(frozen=True, slots=True)
class Opened:
    """The queue, the settings file it belongs to, and the time of this command."""

    tool: QueueTool
    file: Path
    now: float

    def settings(self) -> Smtpgw:
        """All of the gateway's settings, for the command that needs more than the queue."""
        try:
            return _load(self.file)
        except ConfigError as error:
            complain(error)
            raise typer.Exit(CONFIG_ERROR) from None


def _load(file: Path) -> Smtpgw:
    from smtpgw import config  # the models of all keys are slow to load

    return config.load(file).smtpgw


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The queue that the settings name; errors become one line and an exit code."""
    try:
        directory = queue_place.directory(path)
        if not directory.is_dir():
            _load(path)  # no queue yet, or a wrong key: that is worth the time to tell them apart
        require_access(directory)
    except ConfigError as error:
        complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    except OSError as error:
        complain(error)
        raise typer.Exit(1) from None
    try:
        tool = QueueTool(directory)
        try:
            yield Opened(tool, path, time.time())
            sys.stdout.flush()
        finally:
            tool.close()
    except BrokenPipeError:
        # Who read it is gone: what is left goes nowhere, not into a traceback at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(0) from None
    except (QueueError, IllegalMove, NotFound, OSError) as error:
        complain(error)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def looking() -> Iterator[Progress]:
    """Tell whoever waits at a terminal how far a search is."""
    if not sys.stderr.isatty():
        yield quiet
        return
    from rich.console import Console  # what draws is slow to load

    total = 0
    with Console(stderr=True).status("looking") as status:

        def progress(count: int) -> None:
            nonlocal total
            total += count
            status.update(f"looked at {total} mails")

        yield progress


def text(octets: bytes) -> str:
    """Octets of a mail as one safe line."""
    return escape(octets.decode("utf-8", "backslashreplace"))


_LATEST = 253_402_300_799.0
"""The end of the year 9999, where the calendar of datetime ends."""


def moment(seconds: float) -> str:
    """A time for programs; one that is no time of ours is the first or the last there is."""
    within = min(max(seconds, 0.0), _LATEST)
    return datetime.fromtimestamp(within, UTC).isoformat(timespec="seconds")


def say(line: str) -> None:
    """One line of output that is safe already."""
    sys.stdout.write(line + "\n")


def say_json(value: object) -> None:
    """One object on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def complain(error: object) -> None:
    """One line for people."""
    sys.stderr.write(f"{error}\n")
