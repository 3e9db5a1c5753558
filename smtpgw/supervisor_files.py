"""What the gateway's first process has on disk: its lock on the queue, and the workers' numbers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from smtpgw.listening import StartError

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has a name of its own


def lock(directory: Path) -> int:
    """Take the queue directory, making it if need be.  Raises StartError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(
            directory / "supervisor", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise StartError(f"queue directory: {error}") from error
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(number, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(number)
        raise StartError(f"{directory}: process {owner} runs on this queue") from None
    os.ftruncate(number, 0)
    os.pwrite(number, b"%d\n" % os.getpid(), 0)
    return number


def numbers_directory(queue: Path) -> Path:
    """Where the workers' metrics are: in memory.  On a disk that has no room for a page of
    them, a worker that writes into it would be killed (SIGBUS, mmap(2)).

    Where systemd gives us no place, a link in the queue's directory says where it is, so that
    one that was killed leaves nothing behind for good.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        return Path(runtime) / "metrics-smtpgw"
    link = queue / "metrics-smtpgw"
    with contextlib.suppress(OSError):
        known = link.readlink()
        if known.parent == _MEMORY and known.stat().st_uid == os.geteuid():
            return known / "numbers"
    shutil.rmtree(link, ignore_errors=True)  # of an earlier version
    link.unlink(missing_ok=True)
    try:
        made = Path(tempfile.mkdtemp(prefix="smtpgw-", dir=_MEMORY))
    except OSError:
        return link
    with contextlib.suppress(OSError):  # a full disk: then a kill may leave it behind
        link.symlink_to(made)
    return made / "numbers"


def forget_numbers(queue: Path, numbers: Path) -> None:
    """The gateway has ended: its numbers are nobody's any more."""
    shutil.rmtree(numbers, ignore_errors=True)
    if numbers.parent.parent == _MEMORY:
        with contextlib.suppress(OSError):
            numbers.parent.rmdir()
            (queue / "metrics-smtpgw").unlink()
