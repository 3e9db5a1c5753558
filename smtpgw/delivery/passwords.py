"""The password file: `host user:password`, a line for each peer (smtp_sasl_password_maps).

A host is a nexthop as the postmaster spells it (`[mail.example.net]:587`,
`example.net`), a host's name with its port, or its name.  The file is readable for its
owner only.  A changed file is read again once it stays as it is for a moment: one that an
editor has half written would send mail out without its password.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.sasl import Credentials

MAX_FILE = 2**20
SETTLED = 1.0
"""Seconds a changed file has to stay the same before it counts."""

Table = dict[str, Credentials]
_Mark = tuple[int, int, int]


class PasswordsUnusable(Exception):  # noqa: N818 - says what, names the file and line, no secret
    """The file cannot be used; nothing is sent that might need it."""


def parse(octets: bytes, path: str) -> Table:
    """The table in a file.  Raises :class:`PasswordsUnusable` without quoting the line."""
    found: Table = {}
    for number, line in enumerate(octets.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        host, _, value = line.strip().replace(b"\t", b" ").partition(b" ")
        user, colon, password = value.strip().partition(b":")
        if not (colon and user and password) or b"\0" in line:
            raise PasswordsUnusable(f"{path}:{number}: expected HOST USER:PASSWORD")
        key = host.decode("utf-8", "surrogateescape").lower()
        if key in found:
            raise PasswordsUnusable(f"{path}:{number}: a second line for the same host")
        found[key] = Credentials(user, password)
    return found


def _read(path: str) -> tuple[_Mark, Table]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - fstat of what is read, not of a path
            status = os.fstat(file.fileno())
            _check(path, status)
            octets = file.read(MAX_FILE + 1)
    except OSError as error:
        raise PasswordsUnusable(f"{path}: {error.strerror or error}") from None
    if len(octets) > MAX_FILE:
        raise PasswordsUnusable(f"{path}: over {MAX_FILE} octets")
    return _mark(status), parse(octets, path)


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PasswordsUnusable(f"{path}: expected a regular file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise PasswordsUnusable(f"{path}: mode {mode:04o}, expected 0600: it holds passwords")
    if status.st_uid not in (0, os.geteuid()):
        raise PasswordsUnusable(f"{path}: owned by another user")


def _mark(status: os.stat_result) -> _Mark:
    return status.st_ino, status.st_mtime_ns, status.st_size


@dataclass(slots=True)
class _Change:
    mark: _Mark
    since: float


class Passwords:
    """The file at work; `now` is a monotonic clock in seconds."""

    def __init__(self, path: str, now: Callable[[], float]) -> None:
        self._path, self._now = path, now
        self._table: Table | None = None
        self._mark: _Mark | None = None
        self._change: _Change | None = None

    def find(self, hop: Hop) -> Credentials | None:
        """Who we are for this peer: by nexthop, then by host and port, then by host.

        Raises :class:`PasswordsUnusable`.
        """
        table = self._current()
        for key in (hop.nexthop, f"{hop.host}:{hop.port}", hop.host):
            if (found := table.get(key.lower())) is not None:
                return found
        return None

    def check(self) -> None:
        """Raises :class:`PasswordsUnusable` if the file is."""
        _read(self._path)

    def _current(self) -> Table:
        if self._table is None:
            self._mark, self._table = _read(self._path)
            return self._table
        try:
            mark = _mark(os.stat(self._path))  # noqa: PTH116 - a string all the way
        except OSError:
            mark = (0, 0, 0)  # taken away, for a moment or for good
        if mark == self._mark:
            self._change = None
        elif self._change is None or self._change.mark != mark:
            self._change = _Change(mark, self._now())
        elif self._now() - self._change.since >= SETTLED:
            self._table = None
            return self._current()
        return self._table
