"""A supervisor: child processes that are started, watched, restarted and stopped.

A child that ends is started again, after 1 s at first and twice as long each
time up to a minute; one that stayed up for a minute begins anew.  SIGTERM and
SIGINT stop all children (SIGTERM, then SIGKILL after the grace time; a second
signal kills at once), SIGHUP calls back.  Children learn of the supervisor's
death, however it died, from the end of file on a pipe they inherit
(:func:`watch_parent`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from milterd.base.nursery import Born, Nursery, NurseryGone

PARENT_FD = "GATEPOST_PARENT_FD"
"""The environment variable with the number of the inherited pipe."""


@dataclass(frozen=True, slots=True)
class Child:
    """A program to keep running.  `command` is executed as it is, without a shell.

    `environ` is added to our own environment.  `pass_fds` keep their numbers.
    """

    name: str
    command: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a restart: `first`, doubled up to `limit`; `reset` of life begin anew."""

    first: float = 1.0
    limit: float = 60.0
    reset: float = 60.0

    @classmethod
    def up_to(cls, limit: float) -> Backoff:
        """The usual way with another `limit` (service_throttle_time in master(8))."""
        return cls(min(cls().first, limit), limit)

    def after(self, delay: float, lived: float) -> float:
        """The next delay, from the last one (0: none yet) and how long the child lived."""
        return self.first if not delay or lived >= self.reset else min(2 * delay, self.limit)


_Process = asyncio.subprocess.Process | Born


class _Slot:
    """A child's place: its process now, and the task that keeps it filled."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: _Process | None = None
        self.leaving = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Supervisor:
    """Keeps children running until told to stop.

    All callbacks run in the loop: `on_reload` at SIGHUP; `on_stop` once, before the
    children are told; `prepare(child)` before each start, returning what is to be
    started this time; `on_start(name, pid)` after it; `on_exit(name, pid, status)`
    when a child has ended, status being negative for a signal.  A `nursery` gives birth to
    the programs that it knows, as long as it is there.
    """

    def __init__(
        self,
        children: Iterable[Child],
        *,
        log: FilteringBoundLogger,
        grace: float = 10.0,
        backoff: Backoff | None = None,
        on_reload: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
        prepare: Callable[[Child], Child] = lambda child: child,
        on_start: Callable[[str, int], None] = lambda _name, _pid: None,
        on_exit: Callable[[str, int, int], None] = lambda _name, _pid, _status: None,
        clock: Callable[[], float] = time.monotonic,
        nursery: Nursery | None = None,
    ) -> None:
        self._nursery = nursery
        self._log, self._grace, self._clock = log, grace, clock
        self._backoff = backoff or Backoff()
        self._on_reload, self._on_stop, self._prepare = on_reload, on_stop, prepare
        self._on_start, self._on_exit = on_start, on_exit
        self._slots = {each.name: _Slot(each) for each in children}
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._pipe = os.pipe()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def pids(self) -> dict[str, int]:
        """The process id of every child that runs."""
        slots = self._slots.items()
        return {name: each.process.pid for name, each in slots if each.process is not None}

    def send(self, number: int, name: str = "") -> None:
        """Send a signal to one child, or to all."""
        for slot in self._slots.values():
            if slot.process is not None and (not name or slot.child.name == name):
                _signal(slot.process, number)

    def replace(self, children: Iterable[Child]) -> None:
        """From now on keep these: a new name is started, a missing one is stopped, and
        one whose program changed is stopped and started as it now is.  While running."""
        wanted = {each.name: each for each in children}
        for name, slot in list(self._slots.items()):
            if name not in wanted:
                self._dismiss(name, slot)
            elif wanted[name] != slot.child:
                slot.child = wanted[name]
                if slot.process is not None:
                    self._terminate(slot.process)
        for name, child in wanted.items():
            if name not in self._slots:
                self._start(child)

    def stop(self) -> None:
        """Begin to stop; the second call ends the grace time."""
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    async def run(self) -> int:
        """Run until stopped.  Returns 0 if no child had to be killed, else 1."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            for slot in list(self._slots.values()):
                self._start(slot.child)
            await self._stopping.wait()
            self._on_stop()
            return await self._stop_all()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            for end in self._pipe:
                os.close(end)

    def _reload(self) -> None:
        if not self._stopping.is_set():
            self._on_reload()

    def _start(self, child: Child) -> None:
        slot = self._slots[child.name] = _Slot(child)
        slot.task = asyncio.create_task(self._keep(slot))

    def _dismiss(self, name: str, slot: _Slot) -> None:
        slot.leaving.set()
        self._slots[f"{name} (leaving {id(slot)})"] = self._slots.pop(name)
        if slot.process is not None:
            self._terminate(slot.process)

    def _terminate(self, process: _Process) -> None:
        _signal(process, signal.SIGTERM)
        asyncio.get_running_loop().call_later(self._grace, _kill, process)

    async def _keep(self, slot: _Slot) -> None:
        delay = 0.0
        while not slot.leaving.is_set():
            began, before = self._clock(), slot.child
            status = await self._run_once(slot)
            if slot.leaving.is_set():
                break
            if slot.child is not before:
                continue  # replaced on purpose
            delay = self._backoff.after(delay, self._clock() - began)
            self._log.error(
                "child ended", child=slot.child.name, status=_status(status), restart_in=delay
            )
            await _pause(slot.leaving, delay)
        self._slots = {name: each for name, each in self._slots.items() if each is not slot}

    async def _run_once(self, slot: _Slot) -> int:
        try:
            child = self._prepare(slot.child)
            slot.process = await self._begun(child)
        except OSError as error:
            self._log.error("child not started", child=slot.child.name, reason=str(error))
            return 127
        pid = slot.process.pid
        self._log.info("child started", child=child.name, pid=pid)
        self._on_start(child.name, pid)
        if slot.leaving.is_set():  # told to go while it was being made
            self._terminate(slot.process)
        status = await slot.process.wait()
        slot.process = None
        self._on_exit(child.name, pid, status)
        return status

    async def _begun(self, child: Child) -> _Process:
        """Its process.  Raises OSError."""
        numbers = (*child.pass_fds, self._pipe[0])
        environ = {**child.environ, PARENT_FD: str(self._pipe[0])}
        if self._nursery is not None and self._nursery.knows(child.command):
            try:
                own = {number: number for number in numbers}
                return self._nursery.bear(child.command, own, environ)
            except NurseryGone:
                self._log.warning("nursery ended", child=child.name)
        return await asyncio.create_subprocess_exec(
            *child.command,
            pass_fds=numbers,
            env={**os.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C is for the supervisor alone
        )

    async def _stop_all(self) -> int:
        for slot in self._slots.values():
            slot.leaving.set()
        self.send(signal.SIGTERM)
        tasks = [each.task for each in self._slots.values() if each.task is not None]
        waiting = asyncio.ensure_future(asyncio.wait(tasks)) if tasks else None
        if waiting is None:
            return 0
        at_once = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait(
            {waiting, at_once}, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED
        )
        at_once.cancel()
        late = self.pids()
        if late:
            self._log.warning("children killed", children=list(late), grace=self._grace)
            self.send(signal.SIGKILL)
        await waiting
        return 1 if late else 0


async def _pause(leaving: asyncio.Event, delay: float) -> None:
    try:
        async with asyncio.timeout(delay):
            await leaving.wait()
    except TimeoutError:
        return


def _signal(process: _Process, number: int) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return  # it has just ended by itself


def _kill(process: _Process) -> None:
    if process.returncode is None:
        _signal(process, signal.SIGKILL)


def _status(status: int) -> str:
    if status >= 0:
        return f"exit {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def parent_fd(environ: Mapping[str, str] = os.environ) -> int | None:
    """The inherited pipe's number, in a child of a :class:`Supervisor`."""
    number = environ.get(PARENT_FD, "")
    return int(number) if number.isdecimal() else None


def watch_parent(fd: int, callback: Callable[[], None]) -> threading.Thread:
    """Call `callback` once, from a thread of its own, when the supervisor is gone."""
    os.set_inheritable(fd, False)

    def watch() -> None:
        while os.read(fd, 1):
            pass  # nobody writes; only the end of file means anything
        callback()

    thread = threading.Thread(target=watch, name="watch-parent", daemon=True)
    thread.start()
    return thread
