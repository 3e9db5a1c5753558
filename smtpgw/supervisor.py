"""The gateway's first process: it opens the listening sockets and keeps the workers.

It parses no mail.  It alone reads the settings: what it has checked goes to the
workers with the sockets, so that all work by the same settings, and a bad file
at SIGHUP changes nothing.  One supervisor at a time runs on a queue directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from milterd.base import logs, metrics, notify, nursery, sockets, toml_file
from milterd.base.nursery import Nursery
from milterd.base.nursery_child import Program
from milterd.base.settings import placed
from milterd.base.supervise import Backoff, Child, Supervisor
from milterd.base.toml_file import ConfigError, Problem
from smtpgw import config, control, counting, supervisor_files, trial, wiring, worker
from smtpgw.config import GatewaySettings, Loaded
from smtpgw.listening import Listening, StartError, assign, shown
from smtpgw.queue import handover
from smtpgw.rates import service
from smtpgw.rates.counts import Counts

KILL_AFTER = 5.0
"""Seconds beyond stop_timeout that a worker has to end by itself."""

HANDOVER = 3.0
"""Seconds in which sockets that are in use may come free at the start."""

PROGRAMS: dict[str, Program] = {"smtpgw.worker": worker.main, "smtpgw.trial": trial.main}
"""What the supervisor starts, loaded once for all."""

_LOOK_AGAIN = 0.1


class Gateway:
    """A supervisor for the settings in a file."""

    def __init__(self, path: Path, settings: Loaded, birth: Nursery | None = None) -> None:
        self._path, self._settings, self._nursery = path, settings, birth
        self._log = logs.get("supervisor")
        self._lock = supervisor_files.lock(settings.smtpgw.queue.directory)
        self._listening = Listening(assign(settings, sockets.inherited_named()), self._log)
        self._numbers = supervisor_files.numbers_directory(settings.smtpgw.queue.directory)
        self._environ = metrics.prepare(self._numbers)
        self._source = metrics.registry(self._numbers)
        self._endpoint: metrics.Endpoint | None = None
        self._channels: dict[str, tuple[socket.socket, socket.socket | None]] = {}
        self._counts = service.CountService(
            Counts(time.monotonic, settings.smtpgw.anvil_rate_time_unit), self._log
        )
        self._counting: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._waiting: set[str] = set()
        self._supervisor: Supervisor | None = None
        self._changing: asyncio.Task[None] | None = None
        self._again = False

    def open(self) -> None:
        """Open every socket.  Raises StartError; may be called again then."""
        self._listening.of = self._listening.open(self._settings)
        self._serve_metrics(self._settings)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit status."""
        children = self._children(self._settings)
        self._waiting = {each.name for each in children}
        self._supervisor = Supervisor(
            children,
            log=self._log,
            grace=self._settings.smtpgw.stop_timeout + KILL_AFTER,
            backoff=Backoff.up_to(self._settings.smtpgw.service_throttle_time),
            on_reload=self._reload,
            on_stop=self._stop,
            prepare=self._prepare,
            on_start=self._started,
            on_exit=self._ended,
            nursery=self._nursery,
        )
        try:
            return await self._supervisor.run()
        finally:
            if self._changing is not None:
                self._changing.cancel()
                await asyncio.wait({self._changing})
            self._log.info("stopped")
            if self._endpoint is not None:
                self._endpoint.close()
            self._listening.remove()
            supervisor_files.forget_numbers(self._settings.smtpgw.queue.directory, self._numbers)
            os.close(self._lock)

    def _serve_metrics(self, settings: GatewaySettings) -> None:
        """Serve at the address in `settings`, and no more at another.

        Raises StartError, and leaves everything as it was.
        """
        where = settings.metrics.smtpgw
        if self._endpoint is not None and where == self._settings.metrics.smtpgw:
            return
        try:
            new = metrics.serve(where, self._source, allow_remote=True) if where else None
        except sockets.SocketError as error:
            raise StartError(f"metrics.smtpgw: {error}") from error
        if self._endpoint is not None:
            self._endpoint.close()
        self._endpoint = new
        if new is not None:
            self._log.info("metrics", address=shown(new.address))

    # -- workers -----------------------------------------------------------------

    def _children(self, settings: GatewaySettings) -> list[Child]:
        count = settings.smtpgw.workers
        base = (sys.executable, "-Pm", "smtpgw.worker")
        return [
            Child(f"worker-{number}", (*base, str(number)), environ=self._environ)
            for number in range(count)
        ]

    def _prepare(self, child: Child) -> Child:
        ours, theirs = control.pair()
        self._channels[child.name] = ours, theirs
        counts = (pair := service.pair())[1]
        self._counting[child.name] = pair
        environ = {
            **child.environ,
            control.CHANNEL: str(theirs.fileno()),
            counting.CHANNEL: str(counts.fileno()),
        }
        return Child(child.name, child.command, (theirs.fileno(), counts.fileno()), environ)

    def _started(self, name: str, pid: int) -> None:
        counted, counts = self._counting.pop(name)
        counts.close()
        self._counts.attach(f"{name} {pid}", counted)
        ours, theirs = self._channels[name]
        if theirs is not None:
            theirs.close()
        self._channels[name] = ours, None
        asyncio.get_running_loop().add_reader(ours, self._answered, name, ours)
        self._order(name)

    def _order(self, name: str) -> None:
        try:
            orders = control.Orders(self._settings, self._listening.of)
            control.send_orders(self._channels[name][0], orders)
        except OSError as error:
            self._log.error("worker takes no orders", child=name, reason=str(error))

    def _answered(self, name: str, channel: socket.socket) -> None:
        answer = control.receive_answer(channel)
        if not answer:
            asyncio.get_running_loop().remove_reader(channel)
            channel.close()
            return
        if answer.startswith(control.REFUSED):
            reason = answer.removeprefix(control.REFUSED).decode("utf-8", "replace")
            self._log.error("worker keeps its old settings", child=name, reason=reason)
        if name in self._waiting:
            self._waiting.discard(name)
            if not self._waiting:
                self._log.info("ready", workers=self._settings.smtpgw.workers)
                notify.notify("READY=1", f"STATUS={self._settings.smtpgw.workers} workers")

    def _ended(self, name: str, pid: int, status: int) -> None:
        metrics.forget(pid, self._numbers)
        with contextlib.suppress(OSError):  # a mail that kills is found out one crash later
            handover.mark_crash(self._settings.smtpgw.queue.directory, pid, status)
        if self._supervisor is not None and not self._supervisor.stopping:
            metrics.RESTARTS.labels(name).inc()

    # -- signals -----------------------------------------------------------------

    def _stop(self) -> None:
        notify.notify("STOPPING=1")
        self._log.info("stopping", stop_timeout=self._settings.smtpgw.stop_timeout)
        self._listening.close()

    def _reload(self) -> None:
        """SIGHUP: all of the new settings, or none of them."""
        notify.reloading()
        self._again = True
        if self._changing is None or self._changing.done():
            self._changing = asyncio.ensure_future(self._change())
            self._changing.add_done_callback(_raise)

    async def _change(self) -> None:
        while self._again:
            self._again = False
            try:
                new = await self._looked_at()
                if self._supervisor is None or self._supervisor.stopping:
                    return
                listeners = self._listening.open(new)
                self._serve_metrics(new)
            except (ConfigError, StartError) as error:
                self._listening.close_unused()
                for line in str(error).splitlines():
                    self._log.error("settings not taken, the old ones stay", reason=line)
                notify.notify("READY=1")
            else:
                self._take(self._supervisor, new, listeners)

    async def _looked_at(self) -> Loaded:
        """What the file says now, its tables opened once.  Raises ConfigError."""
        new = config.load(self._path)
        _usable(self._path, new)
        require_unchanged(self._path, self._settings, new)
        problems = await trial.opened(new, self._nursery)
        if problems:
            raise _in_file(self._path, problems)
        return new

    def _take(
        self, supervisor: Supervisor, new: Loaded, listeners: dict[str, socket.socket]
    ) -> None:
        self._settings, self._listening.of = new, listeners
        self._counts.counts.unit = new.smtpgw.anvil_rate_time_unit
        logs.setup(new.log.format, new.log.level, daemon="smtpgw")
        self._waiting = {each.name for each in self._children(new)}
        running = set(supervisor.pids())
        supervisor.replace(self._children(new))
        for name in running & self._waiting:
            self._order(name)
        self._listening.close_unused()
        self._log.info("settings taken", file=str(self._path))


def _raise(task: asyncio.Task[None]) -> None:
    """What should not happen goes where the loop puts such things: into the log."""
    if not task.cancelled():
        task.result()


def _usable(path: Path, settings: GatewaySettings) -> None:
    """Raises ConfigError for what can be told without opening tables: certificates, say."""
    if not settings.smtpgw.listener:
        found = Problem(str(path), 0, "smtpgw.listener", "nothing", "at least one listener")
        raise ConfigError([found])
    try:
        wiring.check(settings.smtpgw)
    except ConfigError as error:
        raise _in_file(path, error.problems) from error


def _in_file(path: Path, problems: Iterable[Problem]) -> ConfigError:
    """The problems, with the line of each key."""
    return ConfigError(placed(problems, toml_file.read(path), file=str(path)))


def require_unchanged(path: Path, old: GatewaySettings, new: GatewaySettings) -> None:
    """Raises ConfigError for a change that needs a restart."""
    if new.smtpgw.queue.directory != old.smtpgw.queue.directory:
        kept = f"{old.smtpgw.queue.directory} (changing it needs a restart)"
        found = str(new.smtpgw.queue.directory)
        raise ConfigError([Problem(str(path), 0, "smtpgw.queue.directory", found, kept)])


def run(path: Path) -> int:
    """Run the gateway in this process; the exit status.

    Raises ConfigError, StartError.
    """
    settings = config.load(path)
    logs.setup(settings.log.format, settings.log.level, daemon="smtpgw")
    with contextlib.suppress(KeyboardInterrupt):
        _usable(path, settings)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # for all children too: they mean nothing here
        birth = nursery.make(PROGRAMS)
        try:
            return asyncio.run(_run(path, settings, birth))
        finally:
            birth.close()
    return 130


async def _run(path: Path, settings: Loaded, birth: Nursery) -> int:
    problems = await trial.opened(settings, birth)
    if problems:
        raise _in_file(path, problems)
    end = time.monotonic() + HANDOVER
    gateway = Gateway(path, settings, birth)
    while True:
        try:
            gateway.open()
            break
        except StartError:
            # A worker whose supervisor was killed may be about to close these sockets.
            if time.monotonic() > end:
                raise
            await asyncio.sleep(_LOOK_AGAIN)
    return await gateway.run()
