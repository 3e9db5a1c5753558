"""Final delivery into a Maildir for each address: BASE/ADDRESS/{tmp,new,cur}.

A mail is written in tmp, synced, renamed into new, and new is synced; then it is
delivered.  Its name holds the queue id and the recipient's number, so a delivery that
is repeated after a crash replaces the first instead of standing beside it.  Files
have LF line ends, as Maildir readers expect, and on top Return-Path as RFC 5321 section 4.4
wants it, X-Original-To and Delivered-To, as virtual(8) has them.  Nothing but
[A-Za-z0-9.@_+=-] of an address reaches the file system as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Failed, Job, Outcome, Target

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.@_+=-")
_NAME_LIMIT = 200
_REMEMBERED = 10_000
_CONTROL = bytes(range(32)) + b"\x7f"
_FULL = {errno.ENOSPC: "4.3.1", errno.EDQUOT: "4.2.2"}
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def directory_name(address: bytes) -> str:
    """One safe path component for an address; different addresses get different ones.

    The domain in lower case; other octets and a leading dot as %XX; what would be too
    long ends with a digest instead.
    """
    local, at, domain = address.rpartition(b"@")
    whole = local + at + domain.lower() if at else address
    name = "".join(chr(each) if each in _PLAIN else f"%{each:02X}" for each in whole)
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _NAME_LIMIT:
        name = name[: _NAME_LIMIT - 65] + "%" + hashlib.sha256(whole).hexdigest()
    return name or "%"


class MaildirDelivery:
    """A :class:`~smtpgw.delivery.outcome.Deliverer`; the nexthop is the base directory."""

    def __init__(self, hostname: str) -> None:
        self._host = hostname.replace("/", "\\057").replace(":", "\\072")
        self._made: set[tuple[Path, str]] = set()

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        base = Path(destination.nexthop)
        return [await asyncio.to_thread(self._deliver, base, job, each) for each in job.targets]

    def _deliver(self, base: Path, job: Job, target: Target) -> Outcome:
        if not target.address:
            return Failed(target.number, "no address", "", "5.1.3")
        name = directory_name(target.address)
        try:
            base.mkdir(mode=0o750, parents=True, exist_ok=True)
            root = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._store(base, root, name, job, target)
            finally:
                os.close(root)
        except OSError as error:
            code = _FULL.get(error.errno or 0, "4.3.0")
            return Deferred(target.number, f"maildir {name}: {error.strerror}", "", code)
        return Delivered(target.number, f"stored in maildir {name}")

    def _store(self, base: Path, root: int, name: str, job: Job, target: Target) -> None:
        known = (base, name) in self._made
        file = f"{int(job.arrived)}.Q{job.queue_id}R{target.number}.{self._host}"
        try:
            self._make_box(base, root, name)
            _write(root, name, file, job, target)
        except FileNotFoundError:
            if not known:
                raise
            self._made.discard((base, name))  # somebody removed the mailbox: make it again
            self._make_box(base, root, name)
            _write(root, name, file, job, target)

    def _make_box(self, base: Path, root: int, name: str) -> None:
        """Make and sync the directories, once for each run of this program.

        Also when they are there: nobody knows whether they were synced before a crash.
        """
        if (base, name) in self._made:
            return
        _make(root, name)
        box = os.open(name, _OPEN, dir_fd=root)
        try:
            for each in ("tmp", "new", "cur"):
                _make(box, each)
            os.fsync(box)
            os.fsync(root)
        finally:
            os.close(box)
        if len(self._made) >= _REMEMBERED:
            self._made.clear()
        self._made.add((base, name))

    async def close(self) -> None:
        return


def _write(root: int, name: str, file: str, job: Job, target: Target) -> None:
    opened: list[int] = []
    try:
        for each in ("tmp", "new", "cur"):
            opened.append(os.open(f"{name}/{each}", _OPEN, dir_fd=root))
        tmp, new, cur = opened
        if job.attempt > 1 and _taken(cur, file):
            return  # delivered before a crash, and read since
        _store(tmp, file, job, target)
        os.rename(file, file, src_dir_fd=tmp, dst_dir_fd=new)
        os.fsync(new)
    finally:
        for number in opened:
            os.close(number)


def _make(parent: int, name: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode=0o700, dir_fd=parent)


def _taken(cur: int, file: str) -> bool:
    return any(each.split(":", 1)[0] == file for each in os.listdir(cur))


def _store(tmp: int, file: str, job: Job, target: Target) -> None:
    """Write and sync the file in tmp; one that a crash left there is replaced."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file, dir_fd=tmp)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    number = os.open(file, flags, 0o600, dir_fd=tmp)
    try:
        with os.fdopen(number, "wb") as out:
            out.write(_top(b"Return-Path: <", job.sender, b">\n"))
            out.write(_top(b"X-Original-To: ", target.original or target.address, b"\n"))
            out.write(_top(b"Delivered-To: ", target.address, b"\n"))
            _write_lines(out, job)
            out.flush()
            os.fsync(out.fileno())
    except OSError:
        os.unlink(file, dir_fd=tmp)
        raise


def _top(before: bytes, address: bytes, after: bytes) -> bytes:
    return before + address.translate(None, _CONTROL) + after


def _write_lines(out: BinaryIO, job: Job) -> None:
    """The message with LF line ends; the last line has one too."""
    held, last = b"", b"\n"
    for piece in itertools.chain((job.head,), job.body.pieces()):
        data = held + piece
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)].replace(b"\r\n", b"\n")
        out.write(data)
        last = data[-1:] or last
    out.write(held)
    if held or last != b"\n":
        out.write(b"\n")
