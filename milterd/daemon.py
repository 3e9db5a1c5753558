"""milterd's supervisor: it owns the sockets and the settings, and keeps a process or more
for each filter.

It parses no mail, and reads no key: settings are tried in a process of their own
(as `milterd check` does) before they are taken, at the start as at SIGHUP.  At SIGHUP new
processes take over the sockets that stay, while the old ones finish what they have;
settings that are wrong change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milterd import check, filter_process
from milterd.base import logs, metrics, notify, nursery, sockets
from milterd.base.asked import ask
from milterd.base.nursery import Nursery
from milterd.base.nursery_child import Program
from milterd.base.settings import MetricsSettings
from milterd.base.supervise import Backoff, Child, Supervisor
from milterd.base.toml_file import ConfigError
from milterd.config import MilterdConfig, load
from milterd.filter_process import RETIREMENT

PROGRAMS: dict[str, Program] = {
    "milterd.filter_process": filter_process.main,
    "milterd.check": check.main,
}
"""What the supervisor starts, loaded once for all."""

_GRACE = 2.5
"""Seconds until a filter's process that does not end is killed."""

_CHECK_TIME = 60.0
"""Seconds that trying settings may take."""

_BACKLOG = 4096
"""Connections that may wait to be accepted, or for room; net.core.somaxconn may allow fewer."""


class StartError(Exception):
    """milterd cannot start; the message says why."""


class SettingsRefused(StartError):  # noqa: N818 - the name says what happened
    """The settings cannot be used, now or later."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A filter's listening socket.  `path` is what to remove in the end: a UNIX socket
    that we made ourselves, or nothing."""

    socket: socket.socket
    address: str
    path: str = ""


class Daemon:
    """The supervisor for the settings in a file.  Raises :class:`StartError`."""

    def __init__(self, path: Path, config: MilterdConfig, birth: Nursery | None = None) -> None:
        self._path, self._config, self._nursery = path, config, birth
        self._log = logs.get("supervisor")
        self._given = sockets.inherited_named()
        self._listeners: dict[str, Listener] = {}
        self._generation = 0
        self._children: list[Child] = []
        self._retired: list[Child] = []
        self._orders: dict[str, int] = {}
        self._reloading: asyncio.Task[None] | None = None
        self._again = False
        self._supervisor: Supervisor | None = None
        self._endpoint: metrics.Endpoint | None = None
        self._numbers = _numbers_directory()
        self._environ = metrics.prepare(self._numbers)
        self._source = metrics.registry(self._numbers)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit status."""
        try:
            _require(await self._tried())
            self._listeners = self._open(self._config)
            self._serve_metrics(self._config)
            return await self._supervise()
        finally:
            if self._endpoint is not None:
                self._endpoint.close()
            for each in self._listeners.values():
                _close(each)
            shutil.rmtree(self._numbers, ignore_errors=True)

    async def _supervise(self) -> int:
        self._children = self._wanted(self._config)
        self._supervisor = Supervisor(
            self._children,
            log=self._log,
            grace=_GRACE,
            backoff=Backoff.up_to(self._config.milterd.service_throttle_time),
            on_reload=self._on_reload,
            on_stop=self._on_stop,
            prepare=self._prepare,
            on_start=self._on_start,
            on_exit=self._on_exit,
            nursery=self._nursery,
        )
        notify.notify("READY=1", f"STATUS={', '.join(self._listeners)}")
        return await self._supervisor.run()

    # --- sockets --------------------------------------------------------------------

    def _open(self, config: MilterdConfig) -> dict[str, Listener]:
        """A socket for every filter; those that are open already are kept.

        Raises :class:`StartError`, and leaves everything as it was.
        """
        kept = {each.address: each for each in self._listeners.values()}
        found: dict[str, Listener] = {}
        opened: list[Listener] = []
        try:
            for name in config.filter.present():
                address = config.address(name)
                listener = kept.get(str(address)) or self._inherited(name, address)
                if listener is None:
                    listener = self._listen(config, address)
                    opened.append(listener)
                found[name] = listener
        except (sockets.SocketError, OSError) as error:
            for each in opened:
                _close(each)
            raise StartError(str(error)) from error
        for name, listener in found.items():
            self._log.info("listening", filter=name, address=listener.address)
        return found

    def _listen(self, config: MilterdConfig, address: sockets.SocketAddress) -> Listener:
        own = config.milterd
        if address.kind == "unix":
            _make_directory(own.socket_directory, Path(address.path))
        made = sockets.listen(
            address, int(own.socket_mode, 8), own.socket_owner, own.socket_group, _BACKLOG
        )
        return Listener(made, str(address), address.path)

    def _inherited(self, name: str, address: sockets.SocketAddress) -> Listener | None:
        """The service manager's socket for a filter: by its name, or its address."""
        for at, (label, given) in enumerate(self._given):
            named = label in (name, f"milterd-{name}", f"milterd-{name}.socket")
            if named or _is_at(given, address):
                del self._given[at]
                return Listener(given, str(address))
        return None

    def _serve_metrics(self, config: MilterdConfig) -> None:
        """Where the settings say.  Raises StartError, and goes on where it was."""
        if self._endpoint is not None:
            self._endpoint.close()  # the new one may have its address
            self._endpoint = None
        try:
            self._endpoint = self._served(config.metrics)
        except (ValueError, sockets.SocketError) as error:
            with contextlib.suppress(ValueError, sockets.SocketError):
                self._endpoint = self._served(self._config.metrics)
            raise StartError(f"metrics.milterd: {error}") from error

    def _served(self, where: MetricsSettings) -> metrics.Endpoint | None:
        if not where.milterd:
            return None
        return metrics.serve(where.milterd, self._source, allow_remote=where.allow_remote)

    # --- processes ------------------------------------------------------------------

    def _wanted(self, config: MilterdConfig) -> list[Child]:
        """The processes of a new generation.

        Their names are new, so that the ones before may stay until they are done.
        """
        self._generation += 1
        return [
            Child(
                f"{name}-{self._generation}.{number}",
                (sys.executable, "-Pm", "milterd.filter_process", name),
                environ=self._environ,
            )
            for name, each in config.filter.present().items()
            for number in range(each.processes)
        ]

    def _prepare(self, child: Child) -> Child:
        """Before each start: the socket and the settings in force, as descriptors."""
        self._on_start(child.name, 0)
        listener = self._listeners[child.command[-1]].socket.fileno()
        orders = os.memfd_create("orders", os.MFD_CLOEXEC)
        self._orders[child.name] = orders
        os.write(orders, self._config.model_dump_json().encode())
        command = (*child.command, str(listener), str(orders))
        return Child(child.name, command, (listener, orders), child.environ)

    def _on_start(self, name: str, _pid: int) -> None:
        orders = self._orders.pop(name, None)
        if orders is not None:
            os.close(orders)

    def _on_exit(self, name: str, pid: int, _status: int) -> None:
        metrics.forget(pid, self._numbers)
        if self._supervisor is None or self._supervisor.stopping:
            return
        if any(each.name == name for each in self._retired):
            self._dismiss(name)
        else:
            metrics.RESTARTS.labels(name.rpartition("-")[0]).inc()

    def _dismiss(self, name: str) -> None:
        """Forget a retired process, or end one that took too long."""
        self._retired = [each for each in self._retired if each.name != name]
        if self._supervisor is not None:
            self._supervisor.replace([*self._children, *self._retired])

    # --- signals --------------------------------------------------------------------

    def _on_stop(self) -> None:
        notify.notify("STOPPING=1")
        self._log.info("stopping")
        if self._reloading is not None:
            self._reloading.cancel()

    def _on_reload(self) -> None:
        if self._reloading is not None and not self._reloading.done():
            self._again = True
            return
        self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while True:
            self._again = False
            notify.reloading()
            try:
                await self._take_settings()
            finally:
                notify.notify("READY=1")
            if not self._again:
                return

    async def _take_settings(self) -> None:
        """All of the new settings, or none of them."""
        try:
            _require(await self._tried())
            config = load(self._path)
            listeners = self._opened(config)
        except (ConfigError, StartError) as error:
            for line in str(error).splitlines():
                self._log.error("settings not taken, the old ones stay", reason=line)
            return
        logs.setup(config.log.format, config.log.level, daemon="milterd")
        left = [each for each in self._listeners.values() if each not in listeners.values()]
        self._config, self._listeners = config, listeners
        self._hand_over()
        for each in left:
            each.socket.close()
            if each.path:
                _unlink(each.path)  # it is ours, and alive only as long as the retired are
        self._log.info("settings taken", file=str(self._path))

    def _opened(self, config: MilterdConfig) -> dict[str, Listener]:
        """Every socket of new settings.  Raises StartError, and leaves all as it was."""
        moved = config.metrics != self._config.metrics
        if moved:
            self._serve_metrics(config)
        try:
            return self._open(config)
        except StartError:
            if moved:
                self._serve_metrics(self._config)
            raise

    def _hand_over(self) -> None:
        """Start the new processes, and retire the ones before."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        before, self._children = self._children, self._wanted(self._config)
        running = supervisor.pids()
        retiring = [each for each in before if each.name in running]
        self._retired += retiring
        supervisor.replace([*self._children, *self._retired])
        for each in retiring:
            supervisor.send(signal.SIGUSR1, each.name)
            asyncio.get_running_loop().call_later(RETIREMENT + _GRACE, self._dismiss, each.name)

    async def _tried(self) -> list[str]:
        """What is wrong with the settings in the file, found out in another process.  Raises
        StartError where that cannot be found out."""
        command = (sys.executable, "-Pm", "milterd.check", str(self._path))
        try:
            said = await ask(self._nursery, command, b"", _CHECK_TIME)
        except TimeoutError:
            raise StartError(f"{self._path}: not checked within {_CHECK_TIME:.0f} s") from None
        sys.stderr.write(said.errors.decode("utf-8", "replace"))
        try:
            findings = json.loads(said.output)["findings"]
        except (ValueError, KeyError):
            failed = f"{self._path}: the check itself failed, with status {said.status}"
            raise StartError(failed) from None
        for each in findings:
            if each["level"] == "warning":
                self._log.warning("settings warning", reason=each["problem"])
        return [each["problem"] for each in findings if each["level"] == "error"]


def _require(no_problems: Sequence[str]) -> None:
    if no_problems:
        raise SettingsRefused("\n".join(no_problems))


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _close(listener: Listener) -> None:
    listener.socket.close()
    if listener.path:
        sockets.remove(listener.path)


def _make_directory(directory: Path, path: Path) -> None:
    """Make the socket directory when it is missing; its parent has to be there."""
    if path.parent == directory and not directory.exists():
        directory.mkdir(mode=0o755)


def _is_at(given: socket.socket, address: sockets.SocketAddress) -> bool:
    where = given.getsockname()
    if address.kind == "unix":
        return bool(where == address.path)
    return isinstance(where, tuple) and where[:2] == (address.host, address.port)


def run(path: Path) -> int:
    """Run the filters in this process; the exit status.  Raises ConfigError, StartError."""
    config = load(path)
    logs.setup(config.log.format, config.log.level, daemon="milterd")
    birth = nursery.make(PROGRAMS)
    try:
        return asyncio.run(Daemon(path, config, birth).run())
    finally:
        birth.close()


def _numbers_directory() -> Path:
    """Where the processes' numbers are summed; systemd's RuntimeDirectory if there is one."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        return Path(runtime) / "milterd-metrics"
    return Path(tempfile.mkdtemp(prefix="milterd-metrics-"))
