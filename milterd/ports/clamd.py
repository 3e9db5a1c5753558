"""clamd as a :class:`~milterd.ports.scanner.Scanner`: python-clamd, with descriptors.

python-clamd speaks the session; this module adds what it lacks: passing a file
descriptor (FILDES, clamd(8)) so that a mail is not copied through a socket,
INSTREAM in large pieces, one deadline for the whole exchange, and answers that
are bounded and checked.  One connection serves one scan, so objects may be
shared between threads.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import clamd

from milterd.core.mail import Body, BytesBody, FileBody, Mail, PiecedBody, body_octets
from milterd.ports.clamd_loop import LoopSessions
from milterd.ports.clamd_session import SMALL, Sessions, timeval
from milterd.ports.scanner import (
    Clean,
    Infected,
    Meanwhile,
    ScanFact,
    TooLarge,
    Unavailable,
    Unscannable,
)

STREAM_PIECE = 256 * 1024
"""Octets of one INSTREAM chunk."""
MOST_PARTS = 100
"""Pieces of a mail that one system call is given; the kernel's own limit is 1024."""
ANSWER_LIMIT = 4096
"""Octets of the longest answer line that is read."""

_FILDES = b"nFILDES\n\0"
"""The command, and the octet that carries the descriptor (clamd(8))."""
_LIMIT = re.compile(r"Heuristics\.Limits\.Exceeded\b")
_ENCRYPTED = re.compile(r"Heuristics\.Encrypted\b")
_BUSY = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOBUFS}


@dataclass(frozen=True, slots=True)
class ClamdAddress:
    """Where clamd listens: a UNIX socket's path, or host and TCP port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> ClamdAddress:
        """Read `unix:PATH` or `inet:PORT@HOST`.  Raises ValueError naming both forms."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=rest)
        port, _, host = rest.partition("@")
        if kind in ("inet", "inet6") and host and port.isdecimal() and 0 < int(port) < 65536:
            return cls(host=host.strip("[]"), port=int(port))
        raise ValueError(f"clamd address {text!r}: expected unix:PATH or inet:PORT@HOST")


class Clamd:
    """A clamd at `address`.

    `timeout` seconds bound one whole scan, connecting included; `max_size` is
    the largest message given to clamd, and `memory_limit` the largest that is
    copied into memory to pass it by descriptor; larger ones are streamed, except
    a spool file that is the message itself, which is passed as it is.
    """

    def __init__(
        self,
        address: ClamdAddress,
        *,
        timeout: float = 120.0,
        max_size: int = 26_214_400,
        memory_limit: int = 4_194_304,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._max_size = max_size
        self._memory_limit = memory_limit
        self._clock = clock
        self._sessions = Sessions(address.path, clock) if address.path else None
        self._loop_sessions = (
            LoopSessions(address.path, self._sessions, clock) if self._sessions else None
        )

    @property
    def name(self) -> str:
        """Where it listens, as it is written in settings."""
        address = self.address
        return f"unix:{address.path}" if address.path else f"inet:{address.port}@{address.host}"

    def scan(
        self, mail: Mail, limit: float | None = None, meanwhile: Meanwhile | None = None
    ) -> ScanFact:
        """See :meth:`Scanner.scan <milterd.ports.scanner.Scanner.scan>`; `limit` is seconds for
        this scan, in place of the usual ones."""
        head = mail.head()
        size = len(head) + mail.body.size
        if size > self._max_size:
            return TooLarge(size, self._max_size)
        try:
            most = min(SMALL, self._memory_limit)
            if self._sessions is None or size > most or not isinstance(mail.body, BytesBody):
                return _fact(self._exchange(mail, head, limit, meanwhile))
            return self._in_session(self._sessions, mail, head, limit, meanwhile)
        except (clamd.ClamdError, OSError, UnicodeDecodeError) as error:
            return _failure(error)

    def begin(
        self, mail: Mail, limit: float, then: Callable[[ScanFact | None], None]
    ) -> Callable[[], None] | None:
        """The same for a small mail, in the running event loop, which does not wait: `then` is
        called once, with None where the mail is to be given to :meth:`scan` after all.  What is
        returned calls it off; None where nothing was begun."""
        if self._loop_sessions is None or not isinstance(mail.body, BytesBody):
            return None
        head = mail.head()
        if len(head) + mail.body.size > min(SMALL, self._memory_limit, self._max_size):
            return None

        def came(answer: str | None) -> None:
            if answer is None:
                then(_failure(TimeoutError("no answer in time")))
            else:
                then(_fact(answer) if answer else None)

        return self._loop_sessions.begin((head, *_parts(mail.body)), limit, came)

    def _in_session(
        self,
        sessions: Sessions,
        mail: Mail,
        head: bytes,
        limit: float | None,
        meanwhile: Meanwhile | None,
    ) -> ScanFact:
        """One scan of a small mail: in a session, or else on a connection of its own."""
        limit = self._timeout if limit is None else limit
        end = self._clock() + limit
        answer = sessions.scan((head, *_parts(mail.body)), limit, meanwhile)
        if answer:
            return _fact(answer)
        fact = _fact(self._exchange(mail, head, end - self._clock(), meanwhile))
        if isinstance(fact, Clean | Infected):
            sessions.welcome()
        return fact

    def version(self) -> str | Unavailable:
        """clamd's VERSION, after a PING that it must answer with PONG."""
        try:
            if self._connection().ping() != "PONG":
                return Unavailable("garbled", "PING was not answered with PONG")
            return str(self._connection().version())
        except (clamd.ClamdError, OSError, UnicodeDecodeError) as error:
            return _failure(error)

    def _connection(self, limit: float | None = None) -> _Connection:
        end = self._clock() + (self._timeout if limit is None else limit)
        return _Connection(self.address, end, self._clock)

    def _exchange(
        self, mail: Mail, head: bytes, limit: float | None, meanwhile: Meanwhile | None
    ) -> str:
        """One scan of a mail with this header block; the answer line."""
        connection = self._connection(limit)
        connection.meanwhile = meanwhile
        if not self.address.path:
            return connection.stream(mail.pieces(STREAM_PIECE))
        spooled = _whole_message_file(mail, head)
        if spooled is not None:
            return connection.descriptor(spooled)
        if len(head) + mail.body.size > self._memory_limit:
            return connection.stream(mail.pieces(STREAM_PIECE))
        number = os.memfd_create("mail", os.MFD_CLOEXEC)
        try:
            _write_mail(number, head, mail.body)
            return connection.descriptor(number)
        finally:
            os.close(number)


class _Connection(clamd.ClamdNetworkSocket):  # type: ignore[misc]  # python-clamd carries no types
    """One command to clamd, all of it before `deadline` on `clock`."""

    def __init__(self, address: ClamdAddress, deadline: float, clock: Callable[[], float]) -> None:
        super().__init__(address.host, address.port)
        self._address = address
        self._deadline = deadline
        self._clock = clock
        self.clamd_socket: socket.socket
        self.meanwhile: Meanwhile | None = None

    def descriptor(self, number: int) -> str:
        """Have clamd scan an open file, from its start (FILDES).

        Command and descriptor go in one message, and the kernel watches the time: for a small
        mail, each system call more is felt.
        """
        self._init_socket()
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [number]))
            # A clamd that has no room for us answers and closes, as in `_command`.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.clamd_socket.sendmsg([_FILDES], [rights])
            return self._recv_response()
        finally:
            self._close_socket()

    def stream(self, pieces: Iterator[bytes]) -> str:
        """Have clamd scan these octets (INSTREAM)."""

        def send() -> None:
            for piece in pieces:
                self._send(struct.pack("!L", len(piece)) + piece)
            self._send(struct.pack("!L", 0))

        return self._command("INSTREAM", send)

    def _command(self, command: str, send: Callable[[], None]) -> str:
        self._init_socket()
        try:
            self._send_command(command)
            # Past its StreamMaxLength clamd says so and closes while we still
            # write: the answer is there to be read although writing failed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send()
            return self._recv_response()
        finally:
            self._close_socket()

    def _init_socket(self) -> None:
        left = self._left()
        if not self._address.path:
            peer = (self._address.host, self._address.port)
            self.clamd_socket = socket.create_connection(peer, timeout=left)
            return
        self.clamd_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A UNIX socket that does not block refuses at once when clamd's short
            # backlog is full; a blocking one waits for its turn this long.
            self.clamd_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(left))
            self.clamd_socket.connect(self._address.path)
        except BlockingIOError as error:
            self.clamd_socket.close()
            raise TimeoutError("clamd accepts no connection") from error
        except OSError:
            self.clamd_socket.close()
            raise

    def _send_command(self, cmd: str, *args: str) -> None:
        self._send(f"n{' '.join((cmd, *args))}\n".encode("ascii"))

    def _send(self, octets: bytes) -> None:
        self.clamd_socket.settimeout(self._left())
        self.clamd_socket.sendall(octets)

    def _receive(self) -> bytes:
        """Some octets; b"" at the end."""
        if self.clamd_socket.gettimeout() is not None:
            self.clamd_socket.settimeout(self._left())
            return self.clamd_socket.recv(ANSWER_LIMIT)
        wait = timeval(self._left())
        self.clamd_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        try:
            return self.clamd_socket.recv(ANSWER_LIMIT)
        except BlockingIOError as error:
            raise TimeoutError("no answer in time") from error

    def _recv_response(self) -> str:
        """One line, without its end; raises _NoAnswer where there is none."""
        if self.meanwhile is not None:
            self.meanwhile()
        answer = b""
        while not answer.endswith(b"\n"):
            piece = self._receive()
            if not piece:
                raise _NoAnswer("closed in the middle of an answer" if answer else "")
            answer += piece
            if len(answer) > ANSWER_LIMIT or b"\n" in answer[:-1]:
                raise clamd.ResponseError("answer is not one line")
        return answer[:-1].decode("utf-8")

    def _left(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError("no answer in time")
        return left


class _NoAnswer(clamd.ClamdError):  # type: ignore[misc]  # python-clamd carries no types
    """clamd closed the connection without a whole line."""


_ANSWER = re.compile(
    r"(?:stream|fd\[\d+\]): (?:(?P<name>.+) )?(?P<word>OK|FOUND|ERROR)",
)


@functools.lru_cache(64)  # few say anything but OK
def _fact(answer: str) -> ScanFact:
    """What an answer line means; an unknown one means nothing good."""
    match = _ANSWER.fullmatch(answer)
    if match is None:
        if answer.endswith("ERROR"):
            limit = answer.startswith("INSTREAM size limit exceeded")
            return Unscannable("limit" if limit else "error", answer)
        return Unavailable("garbled" if answer else "empty", answer)
    name = match["name"] or ""
    if match["word"] == "OK" and not name:
        return Clean()
    if match["word"] == "FOUND" and name:
        return _found(name)
    if match["word"] == "ERROR":
        return Unscannable("error", name)
    return Unavailable("garbled", answer)


def _found(signature: str) -> ScanFact:
    """Heuristics that say "could not look" are no infections."""
    if _LIMIT.match(signature):
        return Unscannable("limit", signature)
    if _ENCRYPTED.match(signature):
        return Unscannable("encrypted", signature)
    return Infected(signature)


def _failure(error: Exception) -> Unavailable:
    match error:
        case TimeoutError():
            return Unavailable("timeout", str(error))
        case _NoAnswer():
            return Unavailable("garbled" if str(error) else "empty", str(error))
        case clamd.ClamdError() | UnicodeDecodeError():
            return Unavailable("garbled", type(error).__name__)
        case OSError() if error.errno in _BUSY:
            return Unavailable("resources", error.strerror or "")
        case _:
            return Unavailable("down", str(error))


def _parts(body: Body) -> Sequence[bytes]:
    """A body in as few pieces as there are."""
    if isinstance(body, PiecedBody) and len(body.parts) <= MOST_PARTS:
        return body.parts
    return (body_octets(body),)


def _whole_message_file(mail: Mail, head: bytes) -> int | None:
    """The descriptor of the spool file, if that file is exactly this message."""
    body = mail.body
    if not isinstance(body, FileBody):
        return None
    number = body.file.fileno()
    if body.offset != len(head) or os.fstat(number).st_size != len(head) + body.size:
        return None
    return number if os.pread(number, len(head), 0) == head else None


def _write_mail(number: int, head: bytes, body: Body) -> None:
    """The whole message into a file."""
    if isinstance(body, BytesBody):  # as nearly always, and then one call does it
        done = os.writev(number, (head, body.octets))
        if done == len(head) + body.size:
            return
        raise OSError(errno.ENOSPC, "no room for the mail in memory")
    for piece in (head, *body.pieces()):
        _write_all(number, piece)


def _write_all(number: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(number, view) :]
