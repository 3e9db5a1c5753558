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
from dataclasses import dataclass
from pathlib import Path

from milterd.base import logs, metrics, notify, sockets
from milterd.base.supervise import Backoff, Child, Supervisor
from milterd.base.toml_file import ConfigError
from milterd.config import MilterdConfig, load
from milterd.filter_process import RETIREMENT

_GRACE = 2.5
"""Seconds until a filter's process that does not end is killed."""

_CHECK_TIME = 60.0
"""Seconds that trying settings may take."""

_BACKLOG = 512


class StartError(Exception):
    """milterd cannot start; the message says why."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A filter's listening socket.  `path` is what to remove in the end: a UNIX socket
    that we made ourselves, or nothing."""

    socket: socket.socket
    address: str
    path: str = ""


class Daemon:
    """The supervisor for the settings in a file.  Raises :class:`StartError`."""

    def __init__(self, path: Path, config: MilterdConfig) -> None:
        self._path, self._config = path, config
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
            problems = await self._tried()
            _require(not problems, "\n".join(problems))
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
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
        if not config.metrics.milterd:
            return
        try:
            self._endpoint = metrics.serve(
                config.metrics.milterd, self._source, allow_remote=config.metrics.allow_remote
            )
        except (ValueError, sockets.SocketError) as error:
            raise StartError(f"metrics.milterd: {error}") from error

    # --- processes ------------------------------------------------------------------

    def _wanted(self, config: MilterdConfig) -> list[Child]:
        """The processes of a new generation.

        Their names are new, so that the ones before may stay until they are done.
        """
        self._generation += 1
        return [
            Child(
                f"{name}-{self._generation}.{number}",
                (sys.executable, "-m", "milterd.filter_process", name),
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
            problems = await self._tried()
            _require(not problems, "\n".join(problems))
            config = load(self._path)
            listeners = self._open(config)
            if config.metrics != self._config.metrics:
                self._serve_metrics(config)
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
        """What is wrong with the settings in the file, found out in another process."""
        command = (sys.executable, "-m", "milterd.check", str(self._path))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(_CHECK_TIME):
                output, _ = await process.communicate()
            findings = json.loads(output)["findings"]
        except TimeoutError:
            return [f"{self._path}: not checked within {_CHECK_TIME:.0f} s"]
        except (ValueError, KeyError):
            return [f"{self._path}: the check itself failed, with status {process.returncode}"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return [each["problem"] for each in findings if each["level"] == "error"]


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise StartError(problem)


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


def _numbers_directory() -> Path:
    """Where the processes' numbers are summed; systemd's RuntimeDirectory if there is one."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        return Path(runtime) / "milterd-metrics"
    return Path(tempfile.mkdtemp(prefix="milterd-metrics-"))
