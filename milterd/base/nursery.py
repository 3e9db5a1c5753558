"""A process that has a program loaded, and forks for every run of it.

Python takes a second of processor time to load a daemon; a fork takes some milliseconds, and
what is loaded stands in memory once.  The nursery is made while its maker has no thread and
holds nothing (fork(2) would copy a lock that nobody releases), keeps nothing open but its end
of a pair of sockets, and ignores the signals that mean its maker.  A run gets its descriptors
through that socket, as it would get them by execve(2), and a process group of its own.

A child is the nursery's, so it is the nursery that hears how it ended, and says so; should the
nursery itself be killed, its children go on, and their end is still seen (pidfd_open(2)).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

from milterd.base import nursery_child
from milterd.base.nursery_child import Program

PATIENCE = 10.0
"""Seconds that a birth may take."""

UNKNOWN = 255
"""The status of a child of which only its end is known."""

MOST_DESCRIPTORS = 16
_MODULE = ("-m", "-Pm")
"""What stands before a module; with P, nothing is loaded from the working directory."""
_PACKET = 65536
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class NurseryGone(Exception):  # noqa: N818 - the name says what happened
    """The nursery gives birth to nobody any more."""


class Born:
    """A child, with what asyncio.subprocess.Process says of one: its exit status is negative
    for a signal."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid, self._descriptor = pid, descriptor
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """How it ended, or None."""
        return self._end.result() if self._end.done() else None

    async def wait(self) -> int:
        """Wait for its end."""
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        """Send it a signal.  Raises ProcessLookupError when it has ended."""
        if self._end.done():
            raise ProcessLookupError
        signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def ended(self, status: int) -> None:
        """For the nursery: it has heard so."""
        if not self._end.done():
            self._end.set_result(status)
            os.close(self._descriptor)

    def orphaned(self) -> None:
        """For the nursery: nobody will say how it ends."""
        loop = asyncio.get_running_loop()

        def over() -> None:
            loop.remove_reader(self._descriptor)
            self.ended(UNKNOWN)

        loop.add_reader(self._descriptor, over)


class Nursery:
    """The maker's side.  Use :func:`make`; everything else in a running loop."""

    def __init__(self, programs: frozenset[str], end: socket.socket, pid: int) -> None:
        self._programs, self._end, self._pid = programs, end, pid
        self._children: dict[int, Born] = {}
        self._answers: list[Born | str] = []
        self._listening = self.gone = False

    def knows(self, command: Sequence[str]) -> bool:
        """Whether `command`, as [python, "-Pm", module, ...], can be had here."""
        return not self.gone and command[1] in _MODULE and command[2] in self._programs

    def bear(
        self, command: Sequence[str], descriptors: Mapping[int, int], environ: Mapping[str, str]
    ) -> Born:
        """Start that command.  `descriptors` are those that it has, besides our standard output
        and error, each number with that of ours; `environ` is added to our environment.

        Raises NurseryGone, and OSError when the system has no process to give.
        """
        self._listen()
        wanted = {"words": command[2:], "numbers": list(descriptors), "environ": dict(environ)}
        try:
            socket.send_fds(self._end, [json.dumps(wanted).encode()], list(descriptors.values()))
        except OSError as error:
            self._lost()
            raise NurseryGone from error
        born = self._answer()
        if isinstance(born, str):
            raise OSError(born)
        return born

    def close(self) -> None:
        """It is not needed any more, and the loop has ended.  Its children are not touched."""
        self.gone = True
        self._end.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _answer(self) -> Born | str:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        while not self._answers:
            if self.gone:
                raise NurseryGone
            if poll.poll(PATIENCE * 1000):
                self._hear()
            else:
                self._lost()
        return self._answers.pop()

    def _listen(self) -> None:
        if self.gone:
            raise NurseryGone
        if not self._listening:
            asyncio.get_running_loop().add_reader(self._end, self._hear)
            self._listening = True

    def _hear(self) -> None:
        if self.gone:
            return
        try:
            packet, numbers, _flags, _ = socket.recv_fds(self._end, _PACKET, 1)
        except BlockingIOError:
            return  # it was read already
        except OSError:
            packet = b""
        if not packet:
            self._lost()
            return
        word = json.loads(packet)
        if "born" in word:
            pid = word["born"]
            self._children[pid] = born = Born(pid, numbers[0])
            self._answers.append(born)
        elif "dead" in word:
            self._children.pop(word["dead"]).ended(word["status"])
        else:
            self._answers.append(word["failed"])

    def _lost(self) -> None:
        if self.gone:
            return
        self.gone = True
        asyncio.get_running_loop().remove_reader(self._end)
        for each in self._children.values():
            each.orphaned()
        self._children.clear()


def make(programs: Mapping[str, Program]) -> Nursery:
    """A nursery for these modules: `python -m MODULE` is calling what stands there, with the
    words of the command line that follow.

    Call it with all of them imported, before there is any thread or event loop.
    """
    gc.collect()
    gc.freeze()  # so that no collection writes to the pages that all share
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    maker = os.getpid()
    pid = os.fork()
    if not pid:
        _be_nursery(theirs, programs, maker)
    theirs.close()
    ours.setblocking(False)
    return Nursery(frozenset(programs), ours, pid)


def _be_nursery(end: socket.socket, programs: Mapping[str, Program], maker: int) -> NoReturn:
    status = 70  # EX_SOFTWARE of sysexits(3)
    try:
        os.setpgid(0, 0)  # a terminal's Ctrl-C is for the maker alone
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        nursery_child.hold_only(end.fileno())
        nursery_child.show(f"nursery of {maker}")
        _serve(end, programs)
        status = 0
    finally:
        os._exit(status)


def _serve(end: socket.socket, programs: Mapping[str, Program]) -> None:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    children: dict[int, int] = {}
    while True:
        for number, _ in poll.poll():
            if number in children:
                poll.unregister(number)
                _bury(end, children.pop(number), number)
                continue
            packet, numbers, _flags, _ = socket.recv_fds(end, _PACKET, MOST_DESCRIPTORS)
            if not packet:
                return  # the maker is gone
            found = _fork(end, packet, numbers, programs)
            if found is not None:
                children[found[0]] = found[1]
                poll.register(found[0], select.POLLIN)


def _bury(end: socket.socket, pid: int, descriptor: int) -> None:
    result = os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
    os.close(descriptor)
    assert result is not None  # noqa: S101 - it has ended, so there is something to tell
    ended = result.si_code == os.CLD_EXITED
    status = result.si_status if ended else -result.si_status
    end.send(json.dumps({"dead": pid, "status": status}).encode())


def _fork(
    end: socket.socket, packet: bytes, numbers: list[int], programs: Mapping[str, Program]
) -> tuple[int, int] | None:
    """A child: the descriptor that tells of its end, and its number.

    A signal for a child that has yet to heed it waits until then: what is ignored would be lost.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        pid = os.fork()
        if not pid:
            nursery_child.run(packet, numbers, programs, _IGNORED)
    except OSError as error:
        end.send(json.dumps({"failed": error.strerror}).encode())
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        for each in numbers:
            os.close(each)
    descriptor = os.pidfd_open(pid)
    socket.send_fds(end, [json.dumps({"born": pid}).encode()], [descriptor])
    return descriptor, pid
