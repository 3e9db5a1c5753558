"""The password file on disk: read again when it changes, written whole or not at all.

A file that others may read, or a stranger owns, is not used: its hashes can be guessed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smtpgw.sasl.file import entries
from smtpgw.sasl.file.entries import Entries, Entry

LARGEST = 64 * 1_048_576
"""Octets of a file."""


class FileError(Exception):
    """The file cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Mark:
    """By which a file is known to be the same as before."""

    device: int
    inode: int
    size: int
    changed: int


def mark(path: Path) -> Mark | None:
    """Its mark now, None where there is no such file.  Raises FileError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    return _mark(found)


def _mark(found: os.stat_result) -> Mark:
    return Mark(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


def read(path: Path) -> tuple[Entries, Mark]:
    """What it says.  Raises FileError."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            _check(path, found)
            octets = file.read(LARGEST + 1)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
    if len(octets) > LARGEST:
        raise FileError(f"{path}: more than {LARGEST} octets")
    return entries.parse(octets), _mark(found)


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path}: not a file")
    if found.st_mode & 0o027:
        mode = stat.S_IMODE(found.st_mode)
        raise FileError(f"{path}: mode {mode:04o}, expected 0600 or 0640: others may not read it")
    if found.st_uid not in (0, os.geteuid()):
        raise FileError(f"{path}: owned by user {found.st_uid}, expected root or ourselves")


def change(path: Path, user: bytes, entry: Entry | None, *, owner: Path | None = None) -> bool:
    """Put a user's entry into the file, or take it out; whether there was one before.

    The new file takes the old one's place at once, with its owner and mode; one that there was
    not before has mode 0600 and, where root makes it, the owner of `owner`.  Raises FileError.
    """
    try:
        with _locked(path):
            before = path.read_bytes() if path.exists() else b""
            there = user in entries.parse(before).users
            if entry is not None or there:
                _write(path, entries.changed(before, user, entry), owner)
            return there
    except OSError as error:
        raise FileError(f"{error.filename or path}: {error.strerror}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else changes it meanwhile: its directory is locked."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, octets: bytes, owner: Path | None) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _take_on(file.fileno(), path, owner)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _take_on(descriptor: int, path: Path, owner: Path | None) -> None:
    """The owner and mode of the file that there was, others' rights left out."""
    os.fchmod(descriptor, 0o600)
    like = path if path.exists() else owner
    if like is None or not like.exists():
        return
    found = like.stat()
    if os.geteuid() == 0:
        os.fchown(descriptor, found.st_uid, found.st_gid)
    if like == path:
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o640)
