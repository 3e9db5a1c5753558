"""Sessions with a clamd that outlive a mail (IDSESSION, clamd(8)): a connection made, accepted and
closed for each one costs both sides more than a small mail does.

A session is trusted with plain answers only.  Where it is closed, as clamd does with one that is
idle, or says anything but that a mail is clean or has something, the mail is asked about again on
a connection of its own, whose answer counts.  What clamd scans is a file in memory that a
session keeps as well; it is written over when clamd has said what it thinks of the mail before.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
from array import array
from collections.abc import Callable, Sequence

from milterd.ports.scanner import Meanwhile

SMALL = 262_144
"""Octets of the largest mail that goes through a session."""
KEPT = 20
"""Sessions that are kept when nobody uses them: twice the mails that clamd scans at a time by
default (MaxThreads)."""
IDLE = 10.0
"""Seconds for which an unused session is kept; clamd's own IdleTimeout is 30 by default."""
REST = 60.0
"""Seconds without sessions after a clamd has not taken the first mail of one."""
_ANSWER_LIMIT = 4096
_FILDES = b"nFILDES\n\0"
"""The command, and the octet that carries the descriptor (clamd(8))."""


class Sessions:
    """The sessions with the clamd at `path`.  Safe to use from several threads."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._idle: list[Session] = []
        self._not_before = math.inf

    def welcome(self) -> None:
        """This clamd has answered on a connection of its own, so sessions may be tried."""
        if self._not_before == math.inf:
            self._not_before = -math.inf

    def tried(self, now: float) -> bool:
        """Whether a new session may be begun now."""
        return now >= self._not_before

    def refused(self) -> None:
        """This clamd has not taken the first mail of a session."""
        self._not_before = self._clock() + REST

    def scan(self, parts: Sequence[bytes], limit: float, meanwhile: Meanwhile | None) -> str:
        """What clamd says of a mail, without the session's number; empty where it has to be asked
        on a connection of its own.  `parts` are the mail's octets.  Raises TimeoutError after
        `limit` seconds, and OSError where there is no memory for the mail."""
        session = self._take()
        if session is None:
            return ""
        first = not session.asked
        try:
            answer = session.ask(parts, limit, meanwhile)
        except (BrokenPipeError, ConnectionResetError):
            answer = ""
        except BaseException:
            session.close()
            raise
        if answer:
            self._give_back(session)
            return answer
        session.close()
        if first:
            self.refused()
        return ""

    def _take(self) -> Session | None:
        now, place = self._clock(), place_of(self._path)
        while self._idle:
            try:
                session = self._idle.pop()
            except IndexError:  # another thread has the last one
                break
            if session.place == place and now - session.used < IDLE:
                return session
            session.close()
        return self._new(now)

    def _new(self, now: float) -> Session | None:
        if not self.tried(now):
            return None
        try:
            return Session(self._path)
        except OSError:
            return None  # a connection of its own will tell why

    def _give_back(self, session: Session) -> None:
        session.used = self._clock()
        if len(self._idle) < KEPT:
            self._idle.append(session)
        else:
            session.close()


class Session:
    """One connection, and the file that clamd gets to read; `wait` are the seconds for which it
    waits for clamd to take it.  Raises OSError."""

    def __init__(self, path: str, wait: float = 1.0) -> None:
        self.asked, self.used = 0, 0.0
        self.place = place_of(path)
        """Whose socket this is: who has another one put there asks that clamd from then on."""
        self._size, self._limit = 0, 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file = -1
        try:
            if wait:
                self._bound(wait)
            else:
                self._socket.setblocking(False)
            self._socket.connect(path)
            self._socket.sendall(b"nIDSESSION\n")
            self._file = os.memfd_create("mail", os.MFD_CLOEXEC)
        except BaseException:
            self.close()
            raise
        descriptors = array("i", [self._file])
        self._rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def ask(self, parts: Sequence[bytes], limit: float, meanwhile: Meanwhile | None) -> str:
        """What clamd says of a mail; see :meth:`Sessions.scan`."""
        limit = math.ceil(limit * 100) / 100
        if limit != self._limit:
            self._bound(limit)
        self.begin(parts)
        if meanwhile is not None:
            meanwhile()
        try:
            return self.answer()
        except BlockingIOError as error:
            raise TimeoutError("no answer in time") from error

    def begin(self, parts: Sequence[bytes]) -> None:
        """Have clamd look at a mail."""
        self._write(parts)
        self.asked += 1
        self._socket.sendmsg((_FILDES,), self._rights)

    def answer(self) -> str:
        """What clamd says of the mail that was begun last, without the session's number; empty
        where it is nothing plain."""
        return _plain(self._socket.recv(_ANSWER_LIMIT), self.asked)

    def _write(self, parts: Sequence[bytes]) -> None:
        size = sum(map(len, parts))
        if os.pwritev(self._file, parts, 0) != size:
            raise OSError(errno.ENOSPC, "no room for the mail in memory")
        if size < self._size:
            os.ftruncate(self._file, size)
        self._size = size

    def _bound(self, limit: float) -> None:
        """Seconds for each system call, which the kernel watches."""
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, timeval(limit))
        self._limit = limit

    def close(self) -> None:
        self._socket.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def place_of(path: str) -> tuple[int, int] | None:
    """What tells the socket at a path from others: no new one is like one that is still in use."""
    try:
        there = os.stat(path)  # noqa: PTH116 - for each mail
    except OSError:
        return None
    return there.st_dev, there.st_ino


def timeval(seconds: float) -> bytes:
    """As SO_RCVTIMEO and SO_SNDTIMEO want it (socket(7)), where nothing would mean for ever."""
    microseconds = max(1000, int(seconds * 1_000_000))
    return struct.pack("ll", microseconds // 1_000_000, microseconds % 1_000_000)


def _plain(line: bytes, number: int) -> str:
    """The answer to this command of the session if it is one line that says OK or FOUND."""
    if not line.endswith((b" OK\n", b" FOUND\n")) or line.count(b"\n") != 1:
        return ""
    named, _, answer = line.partition(b": ")
    if named != b"%d" % number:
        return ""
    return answer[:-1].decode("utf-8", "replace")
