"""A real worker on a private queue, kept by the test as the supervisor keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from smtpgw import config, control, wiring
from smtpgw.drop_room import DropRoom
from smtpgw.local.drop import UNFINISHED
from smtpgw.queue.search import Filter
from smtpgw.queue.store import QueuedMail, StoreDamaged
from smtpgw.queue.tools import QueueTool
from tests.crash.forked import Child, Nursery
from tests.peers.process import free_port

STOP = 30.0
"""Seconds a worker may take to end."""

_SETTINGS = """
[log]
format = "json"
level = "info"
[metrics]
smtpgw = ""
[smtpgw]
myhostname = "mx.example.net"
mydestination = ["example.net"]
workers = 1
stop_timeout = 10
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{port}"
[smtpgw.dns]
nameservers = ["127.0.0.1:1"]
[smtpgw.queue]
directory = "{queue}"
minimal_backoff_time = "0.2s"
maximal_backoff_time = "0.4s"
qmgr_message_active_limit = {active}
[smtpgw.delivery]
default = "lmtp:unix:{sink}"
[smtpgw.transport]
"box.example.net" = "maildir:{boxes}"
"""


@dataclass
class Running:
    """A worker, and the supervisor's end of its channel."""

    child: Child
    channel: socket.socket
    log: Path

    async def stop(self) -> int:
        """Ask it to end; its exit status, or minus the signal that killed it first."""
        self.child.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        try:
            return await self.child.ended(STOP)
        except TimeoutError:
            text = await self.stacks()
            raise AssertionError(f"worker {self.child.pid} does not end:\n{text}") from None
        finally:
            self.channel.close()

    async def stacks(self) -> str:
        """Where its threads and tasks are, and what it said before."""
        self.child.send_signal(signal.SIGUSR1)
        await asyncio.sleep(1.0)
        return self.log.read_text(errors="replace")[-10_000:]


class Worker:
    """What it takes to run worker 0 again and again: queue, settings, the open listener."""

    def __init__(self, nursery: Nursery, home: Path, queue: Path, sink: Path, active: int) -> None:
        self.queue, self.log, self._nursery = queue, home / "log", nursery
        self.boxes = queue.parent / "boxes"
        self.file = home / f"{sink.name}.toml"
        self._sink, self._free = sink, free_port()
        self.settings = self.configure(active)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])

    def configure(self, active: int) -> config.GatewaySettings:
        """Settings for its next start, in which it has so many mails in delivery at once."""
        text = _SETTINGS.format(
            boxes=self.boxes, queue=self.queue, sink=self._sink, active=active, port=self._free
        )
        self.file.write_text(text)
        self.settings = config.load(self.file)
        return self.settings

    @property
    def drop(self) -> Path:
        return self.settings.smtpgw.queue.drop

    def make_drop(self) -> None:
        """Make the drop directory, as a worker does at its start."""
        self.queue.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = wiring.pickup(self.settings.smtpgw, self.settings.smtpgw.hostname)
        DropRoom(options.directory).prepare(options.public, self.queue)

    async def start(self, fault: str = "") -> Running:
        """One that waits for :meth:`order`."""
        ours, theirs = control.pair()
        with theirs:
            child = await self._nursery.bear("worker", theirs.fileno(), self.log, fault=fault)
        return Running(child, ours, self.log)

    def order(self, running: Running) -> None:
        """Let it begin, by our settings."""
        running.child.go()
        control.send_orders(running.channel, control.Orders(self.settings, {"mx": self._listener}))

    async def ready(self, running: Running) -> bool:
        """Wait until it says that it is at work; False if it is gone before that."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.sock_recv(running.channel, 65536) == control.READY
        except ConnectionError:
            return False

    def said(self) -> str:
        """The end of what workers have logged."""
        return self.log.read_text(errors="replace")[-5000:] if self.log.exists() else ""

    def close(self) -> None:
        self._listener.close()


@contextlib.asynccontextmanager
async def working(worker: Worker, fault: str = "") -> AsyncIterator[Running]:
    """One that works, asked to end afterwards."""
    running = await worker.start(fault)
    worker.order(running)
    yield running
    status = await running.stop()
    assert status == 0, worker.said()


async def emptied(worker: Worker, within: float) -> list[str]:
    """Wait until nothing is left, at most so many seconds; what is left then."""
    end = time.monotonic() + within
    while (found := left(worker)) and time.monotonic() < end:  # noqa: ASYNC110 - files tell nobody
        await asyncio.sleep(0.02)
    return found


def look(queue: Path, copy: Path) -> list[QueuedMail] | None:
    """The mails of a queue that nobody runs, which stays as it is: a copy is looked at.  None if
    that has not been made, or not been brought up to date yet."""
    shutil.copytree(queue, copy, ignore=shutil.ignore_patterns("bodies", "reserve", "drop"))
    try:
        with contextlib.closing(QueueTool(copy)) as tool:
            return tool.list(Filter(limit=10_000))
    except StoreDamaged:
        return None
    finally:
        shutil.rmtree(copy)


def left(worker: Worker) -> list[str]:
    """What stands in a queue that has none to be there: mails, body files, handed in mail.

    Not what the sendmail command was killed over: it is thrown away after a day.
    """
    with contextlib.closing(QueueTool(worker.queue)) as tool:
        mails = [f"{each.queue_id} {each.state}" for each in tool.list(Filter(limit=10_000))]
    files = [
        str(each.relative_to(worker.queue))
        for where in ("00/bodies", "spool", "drop/new", "drop/taken", "drop/corrupt")
        for each in (worker.queue / where).iterdir()
    ]
    return mails + [each for each in files if not each.startswith(f"drop/new/{UNFINISHED}")]
