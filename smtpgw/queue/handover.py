"""Who may have a shard next: looking whether it is free, and asking its keeper for it.

    lock      flocked by the process that runs the shard (see shard.py)
    wanted    flocked, shared, by a process that waits for it
    crash     what signal killed the process that ran it, until the next one has recovered it

A lock ends with its process, so nothing outlives a crash but what is to: no stale wish, no
stale owner.  Who runs a shard that is not its own looks at `wanted` and gives it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_CRASHES = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""What a program brings upon itself.  SIGKILL is somebody else's will, and no mail's fault."""


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


def mark_crash(root: Path, pid: int, status: int) -> None:
    """Remember that this process ended so (negative: by a signal), for the shards it ran.

    Nothing is remembered of an end that was not a crash.  Raises OSError.
    """
    if status >= 0 or -status not in _CRASHES:
        return
    for lock in root.glob("*/lock"):
        if _read(lock) == str(pid):
            number = os.open(lock.with_name("crash"), _FLAGS | os.O_TRUNC, 0o600)
            with os.fdopen(number, "w") as file:
                file.write(signal.Signals(-status).name)


def crash(directory: Path) -> str:
    """What killed the last one who ran it, '' if that was no crash."""
    return _read(directory / "crash")


def forget_crash(directory: Path) -> None:
    """It was counted.  Raises OSError."""
    (directory / "crash").unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""  # there is none
    with os.fdopen(number, "rb") as file:
        return file.read(32).decode("ascii", "replace").strip()


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
