"""The state file of `milterd dkim rotate`: which keys there are, and how far each has come.

JSON without secrets.  It is replaced as a whole, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from milterd.ports.dkim_make import sync_directory

LIMIT = 16 << 20
"""Octets of the largest state file."""


class Stage(enum.Enum):
    """How far a key has come.

    MADE: the file is there.  PUBLISHED: its record was seen in DNS.  SIGNING: it signs.
    RETIRING: another signs, and the record stays for mail on its way.  RETIRED: the record is
    gone, or says that the key is revoked.
    """

    MADE = "made"
    PUBLISHED = "published"
    SIGNING = "signing"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Entry:
    """A key: `key` is its file, `record` what DNS has to say, `since` the second since the epoch
    in which it came to its stage, `ttl` how many seconds DNS keeps its record."""

    domain: str
    selector: str
    algorithm: str
    key: str
    record: str
    stage: Stage
    since: int
    ttl: int = 3600
    subdomains: bool = False


class StateError(Exception):
    """A state file that cannot be used: which, and why."""


def read(path: Path) -> tuple[Entry, ...]:
    """The keys; none where the file is not there yet.  Raises StateError."""
    try:
        with path.open("rb") as file:
            octets = file.read(LIMIT)
        return tuple(map(_entry, json.loads(octets)["keys"]))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"state file {path}: {error or type(error).__name__}") from error


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file, onto the disk.  Raises StateError."""
    data = [asdict(each) | {"stage": each.stage.value} for each in entries]
    text = json.dumps({"version": 1, "keys": data}, indent=1) + "\n"
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise StateError(f"state file {path}: {error.strerror}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One at a time may change a state file.  Raises StateError where another does."""
    try:
        with path.with_name(f".{path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise StateError(f"state file {path}: another command is changing it") from None
    except OSError as error:
        raise StateError(f"state file {path}: {error.strerror}") from error


def _entry(data: dict[str, object]) -> Entry:
    entry = Entry(**{**data, "stage": Stage(data["stage"])})  # type: ignore[arg-type]
    texts = (entry.domain, entry.selector, entry.algorithm, entry.key, entry.record)
    if not all(isinstance(each, str) for each in texts):
        raise TypeError("a text is expected")
    if not isinstance(entry.since, int) or not isinstance(entry.ttl, int):
        raise TypeError("a number is expected")
    return entry
