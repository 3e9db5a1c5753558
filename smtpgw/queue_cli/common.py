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
from typing import Annotated

import typer
from rich.console import Console

from milterd.base import logs
from milterd.base.settings import ConfigError
from smtpgw import config as settings
from smtpgw.queue import ids
from smtpgw.queue.search import Progress, quiet
from smtpgw.queue.states import IllegalMove
from smtpgw.queue.store import NotFound, QueueError
from smtpgw.queue.tools import QueueTool

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


@dataclass(frozen=True, slots=True)
class Opened:
    """The queue, the settings it belongs to, and the time of this command."""

    tool: QueueTool
    settings: settings.Smtpgw
    now: float


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The queue that the settings name; errors become one line and an exit code."""
    try:
        found = settings.load(path).smtpgw
    except ConfigError as error:
        complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    try:
        tool = QueueTool(found.queue.directory)
        try:
            yield Opened(tool, found, time.time())
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
    console = Console(stderr=True)
    if not console.is_terminal:
        yield quiet
        return
    total = 0
    with console.status("looking") as status:

        def progress(count: int) -> None:
            nonlocal total
            total += count
            status.update(f"looked at {total} mails")

        yield progress


def text(octets: bytes) -> str:
    """Octets of a mail as one safe line."""
    return logs.escape(octets.decode("utf-8", "backslashreplace"))


def moment(seconds: float) -> str:
    """A time for programs."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def say(line: str) -> None:
    """One line of output that is safe already."""
    sys.stdout.write(line + "\n")


def say_json(value: object) -> None:
    """One object on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def complain(error: object) -> None:
    """One line for people."""
    Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
