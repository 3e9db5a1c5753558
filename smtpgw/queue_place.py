"""Where the queue is, by a settings file: one key, read without the models of all the others.

So the queue can be looked at while the file is wrong elsewhere, and at once.
"""

from __future__ import annotations

from pathlib import Path

from milterd.base import toml_file
from milterd.base.toml_file import ConfigError, Problem

DEFAULT = Path("/var/lib/gatepost/queue")


def directory(file: Path) -> Path:
    """`smtpgw.queue.directory` of the file.  Raises :class:`ConfigError`."""
    found: object = toml_file.tables(toml_file.read(file), file=str(file))
    key = ""
    for each in ("smtpgw", "queue", "directory"):
        if not isinstance(found, dict):
            raise ConfigError([Problem(str(file), 0, key, repr(found)[:60], "a table")])
        if each not in found:
            return DEFAULT
        found, key = found[each], f"{key}.{each}".lstrip(".")
    if not isinstance(found, str):
        raise ConfigError([Problem(str(file), 0, key, repr(found)[:60], "a path")])
    return Path(found)
