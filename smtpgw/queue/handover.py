"""Who may have a shard next: looking whether it is free, and asking its keeper for it.

    lock      flocked by the process that runs the shard (see shard.py)
    wanted    flocked, shared, by a process that waits for it

A lock ends with its process, so nothing here outlives a crash: no stale wish, no stale
owner.  Who runs a shard that is not its own looks at `wanted` and gives it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def asking(directory: Path) -> Iterator[None]:
    """Ask for the shard, for as long as the block runs.  Raises OSError."""
    number = os.open(directory / "wanted", _FLAGS, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_SH)
        yield
    finally:
        os.close(number)


def wanted(directory: Path) -> bool:
    """Whether somebody asks for it.  Raises OSError."""
    return _locked(directory / "wanted", fcntl.LOCK_EX)


def free(directory: Path) -> bool:
    """Whether nobody runs it.  Raises OSError.

    For the moment of the look it cannot be had: who waits for it tries again.
    """
    return not _locked(directory / "lock", fcntl.LOCK_SH)


def _locked(path: Path, how: int) -> bool:
    """Whether a lock of this kind is to be had no more."""
    number = os.open(path, _FLAGS, 0o600)
    try:
        fcntl.flock(number, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(number)
    return False
