"""A shard directory: its layout, its lock, and its body files.

    lock      flocked by the one process that runs the shard; holds its process id
    queue.db  mails, recipients, decisions, and bodies up to the inline limit
    bodies/   one file a body above it, named by the queue id

What else may stand here: `reserve` (smtpgw/queue/reserve.py), `wanted` (handover.py), and what
was saved of a broken database (salvage.py).

A body that was seen as it came in (milterd/core/spooled.py) is not read again to be queued, nor for
the first attempt, where its file is as it was left.

Body files are created with O_EXCL and O_NOFOLLOW in a 0700 directory, or get their name there by
link(2), and are synced together with it before the transaction that names them commits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from milterd.core.mail import Body, FileBody
from milterd.core.spooled import Seen, SeenBody, joined
from smtpgw.queue import ids
from smtpgw.queue.store import (
    Damaged,
    QueueError,
    StoreFailed,
    StoreFull,
    StoreLocked,
    Unreadable,
)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO})
_CLOSED = os.O_CLOEXEC | os.O_NOFOLLOW
_REMEMBERED = 256
"""Bodies just written that need not be read to be checked."""
_Stamp = tuple[int, int, int, int]
_PROBE = 65_536
"""Octets that are asked for to see whether the disk has room."""


def _nobody_told(_queue_id: str, _reason: str) -> None:
    return


class Shard:
    """The directory.  Creating this object makes the directories that are missing, if `make`.

    `on_left` is told, in any thread, of a body file that could not be removed, and why.
    """

    def __init__(self, directory: Path, *, make: bool = True) -> None:
        self.directory = directory
        self.database = directory / "queue.db"
        self.bodies = directory / "bodies"
        self.on_left: Callable[[str, str], None] = _nobody_told
        self._lock: int | None = None
        self._written: dict[str, tuple[_Stamp, Seen]] = {}
        self._mutex = threading.Lock()
        if make:
            self._make()

    def _make(self) -> None:
        directory = self.directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)  # others pass its parent, to hand in mail
        self.bodies.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in (directory, directory.parent, directory.parent.parent):
            sync_directory(each)

    def lock(self) -> None:
        """Take the shard, or raise :class:`StoreLocked` naming the process that has it."""
        number = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | _CLOSED, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(number, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(number)
            raise StoreLocked(f"{self.directory}: in use by process {owner}") from None
        os.ftruncate(number, 0)
        os.pwrite(number, b"%d\n" % os.getpid(), 0)
        self._lock = number

    def unlock(self) -> None:
        """Let go of the shard."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def body_path(self, queue_id: str) -> Path:
        """Where this mail's body file stands; raises ValueError for what is no id."""
        if not ids.valid(queue_id):
            raise ValueError(f"not a queue id: {queue_id!r}")
        return self.bodies / queue_id

    def write_body(self, queue_id: str, body: Body, checksum: int) -> int:
        """Write, sync, sync the directory; return the CRC-32 continued from `checksum`.

        A nameless file that holds the body and nothing else (open(2), O_TMPFILE) gets its name
        here and is not copied.  Raises StoreFull (nothing is left behind), StoreFailed for a
        failed sync.
        """
        path = self.body_path(queue_id)
        if isinstance(body, FileBody) and _named(body, path):
            return self._keep(path, body, checksum)
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSED, 0o600)
        except OSError as error:
            raise _translate(error, path) from error
        try:
            for piece in body.pieces():
                checksum = zlib.crc32(piece, checksum)
                _write_all(number, piece)
        except OSError as error:
            self.drop_body(queue_id)
            raise _translate(error, path) from error
        else:
            self._sync(number, path)
        finally:
            os.close(number)
        return checksum

    def _keep(self, path: Path, body: FileBody, checksum: int) -> int:
        """Have on the disk what has just got its name."""
        number = body.file.fileno()
        if isinstance(body, SeenBody):
            self._sync(number, path)
            self._remember(path.name, os.fstat(number), body.seen)
            return joined(checksum, body.seen.crc, body.size)
        try:
            for piece in body.pieces():
                checksum = zlib.crc32(piece, checksum)
        except OSError as error:
            self.drop_body(path.name)
            raise _translate(error, path) from error
        self._sync(number, path)
        return checksum

    def _remember(self, name: str, found: os.stat_result, seen: Seen) -> None:
        """What was just written, for who reads it next; the oldest gives way."""
        with self._mutex:
            self._written[name] = _stamp(found), seen
            if len(self._written) > _REMEMBERED:
                del self._written[next(iter(self._written))]

    def _recalled(self, name: str, found: os.stat_result | None = None) -> Seen | None:
        """The same, once; None where the file has been changed since."""
        with self._mutex:
            stamp, seen = self._written.pop(name, (None, None))
        return seen if found is not None and stamp == _stamp(found) else None

    def _sync(self, number: int, path: Path) -> None:
        try:
            os.fsync(number)
            sync_directory(self.bodies)
        except OSError as error:
            if error.errno in _FULL:
                self.drop_body(path.name)
                raise _translate(error, path) from error
            # The kernel has marked the pages clean: asking again would lie (faults, fsync EIO).
            raise StoreFailed(f"{path}: sync failed: {error}") from error

    def open_body(self, queue_id: str, size: int, head_sum: int, checksum: int) -> FileBody:
        """The body file as a view, checked: by reading it, or by what is known of it.

        Raises :class:`Damaged`, and :class:`Unreadable` where that cannot be known.
        """
        try:
            number = os.open(self.body_path(queue_id), os.O_RDONLY | os.O_NONBLOCK | _CLOSED)
        except OSError as error:
            kind = Damaged if error.errno in _NO_FILE else Unreadable
            raise kind(f"body file: {error.strerror}") from error
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            os.close(number)
            raise Damaged(f"body file holds {found.st_size} octets, {size} were stored")
        seen = self._recalled(queue_id, found)
        file = os.fdopen(number, "rb", buffering=0)
        body = FileBody(file, 0, size) if seen is None else SeenBody(file, 0, size, seen)
        try:
            _check(body, head_sum, checksum)
        except QueueError:
            body.file.close()
            raise
        return body

    def drop_body(self, queue_id: str) -> None:
        """Unlink a body file.  What cannot be unlinked is an orphan for the next start, and
        `on_left` is told."""
        self._recalled(queue_id)
        try:
            self.body_path(queue_id).unlink(missing_ok=True)
        except OSError as error:
            self.on_left(queue_id, error.strerror or str(error))

    def body_files(self) -> Iterator[tuple[str, bool]]:
        """Every name in bodies/, and whether it can be one of ours."""
        with os.scandir(self.bodies) as entries:
            for each in entries:
                yield each.name, ids.valid(each.name) and each.is_file(follow_symlinks=False)

    def free(self) -> tuple[int, int]:
        """Free octets and inodes for an ordinary user."""
        found = os.statvfs(self.directory)
        inodes = found.f_favail if found.f_files else 1_000_000  # some file systems count none
        return found.f_bavail * found.f_frsize, inodes

    def refused(self) -> bool:
        """Whether the disk takes nothing for want of space, quota or inodes, or is read-only.

        For who has seen a write fail and was not told why.
        """
        path = self.directory / "probe"
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | _CLOSED, 0o600)
            try:
                os.posix_fallocate(number, 0, _PROBE)
            finally:
                os.close(number)
        except OSError as error:
            return error.errno in _FULL
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
        return False


def _stamp(found: os.stat_result) -> _Stamp:
    """What is another once anybody has written to a file, or put another in its place."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check(body: FileBody, head_sum: int, checksum: int) -> None:
    """Raises :class:`Damaged`, and :class:`Unreadable`."""
    try:
        if isinstance(body, SeenBody):
            head_sum = joined(head_sum, body.seen.crc, body.size)
        else:
            for piece in body.pieces():
                head_sum = zlib.crc32(piece, head_sum)
    except OSError as error:
        raise Unreadable(f"body file: {error.strerror or error}") from error
    if head_sum != checksum:
        raise Damaged("body file is not what was stored")


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk.  Raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _named(body: FileBody, path: Path) -> bool:
    """Give a body's file its name in the queue; False where it has one already, holds other things
    too, or cannot have one there, as on another file system."""
    number = body.file.fileno()
    found = os.fstat(number)
    if found.st_nlink or body.offset or found.st_size != body.size:
        return False
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a directory's descriptor it is linkat(2) that is called, which follows the link.
            os.link(f"/proc/self/fd/{number}", path.name, dst_dir_fd=directory)
        finally:
            os.close(directory)
    except OSError:  # a copy meets it again, or does not
        return False
    return True


def _write_all(number: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(number, view) :]


def _translate(error: OSError, path: Path) -> QueueError:
    if error.errno in _FULL:
        return StoreFull(f"{path}: {error.strerror}")
    if error.errno == errno.EIO:
        return StoreFailed(f"{path}: {error.strerror}")
    return QueueError(f"{path}: {error.strerror}")
