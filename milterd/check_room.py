"""Whether there is room for the connections that the settings permit, and those that the gateway
of the same file may ask for.  What is short makes mail wait, and may defer it; it keeps nothing
from running, and so is a warning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from milterd.base import openfiles, row, toml_file
from milterd.base.settings import placed
from milterd.base.toml_file import Problem
from milterd.config import MilterdConfig

_KEY = "milterd.connections"


def problems(path: Path, config: MilterdConfig) -> list[Problem]:
    """What is short, with its place in the file."""
    text = toml_file.read(path)
    found = [*_open_files(config), *_sessions(config, row.sessions(toml_file.tables(text)))]
    return placed(found, text, file=str(path))


def _open_files(config: MilterdConfig) -> Iterator[Problem]:
    """This process has the hard limit that those of the filters have, if milterd started it."""
    wanted = config.open_files
    most = openfiles.at_most(wanted)
    if most < wanted:
        found = f"{config.milterd.connections}, which take up to {wanted} open files"
        expected = (
            f"fewer, as the hard limit is {most} open files; or raise that: LimitNOFILE= in "
            "milterd's unit, ulimit -Hn in a shell"
        )
        yield Problem("", 0, _KEY, found, expected)


def _sessions(config: MilterdConfig, sessions: dict[str, int]) -> Iterator[Problem]:
    own = config.milterd.connections
    for name, table in config.filter.present().items():
        wanted = sessions.get(name, 0)
        if wanted > own * table.processes:
            found = f"{own} for each of filter.{name}'s processes ({table.processes})"
            expected = (
                f"{wanted} together, since smtpgw may have so many clients at once (workers, "
                "default_process_limit, its listeners), each with a connection of its own: raise "
                "it, or processes, or lower default_process_limit; clients beyond wait, and may "
                "be told 451"
            )
            yield Problem("", 0, _KEY, found, expected)
