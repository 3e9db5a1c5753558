"""A worker process: one whole road, from the listening sockets to the deliveries.

It lives as long as its supervisor does and takes its orders from it.  SIGTERM, or
the supervisor's death, drains it: nothing new is accepted, what is under way ends,
what is known is committed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import uvloop

from milterd.base import collector, cores, logs, metrics, openfiles
from milterd.base.toml_file import ConfigError
from smtpgw import control
from smtpgw.app import App
from smtpgw.config import Smtpgw
from smtpgw.control import Orders, SupervisorGone
from smtpgw.queue.store import QueueError
from smtpgw.wiring import open_files

Result = TypeVar("Result")

LOCK_MARGIN = 10.0
"""Seconds beyond stop_timeout that a worker waits for its shard's last owner to end."""

SWITCH = 0.0005
"""Seconds that a busy event loop keeps the interpreter's lock from the thread that commits, where
Python's own are 0.005.  A transaction asks for it anew after each of its statements, and whoever
has sent a dot waits for all of them."""


class Worker:
    """The process.  `shard` is its number, and that of the queue's part that is its own."""

    def __init__(self, shard: int, channel: socket.socket) -> None:
        self._shard, self._channel = shard, channel
        self._log = logs.get("worker")
        self._orders: asyncio.Queue[Orders] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Work until told to stop; the exit status."""
        loop = asyncio.get_running_loop()
        self._channel.setblocking(False)
        loop.add_reader(self._channel, self._read)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        orders = await self._first()
        if orders is None:
            return self._status
        settings = orders.settings.smtpgw
        self._choose_processor(settings)  # before it has threads, so that they do as it does
        patience = settings.stop_timeout + LOCK_MARGIN
        app = await self._unless_stopped(App.open(self._shard, settings, patience))
        if app is None:
            return self._status
        return await self._work(app, orders)

    async def _work(self, app: App, orders: Orders) -> int:
        self._set_up_logs(orders)
        openfiles.raise_to(open_files.wanted(orders.settings.smtpgw), self._log)
        collector.settle()  # settings and tables come after it: they end with the next reload
        await app.apply(orders, self._failed)
        self._answer(control.READY)
        counting = asyncio.ensure_future(app.count())
        try:
            while (new := await self._unless_stopped(self._orders.get())) is not None:
                orders = await self._change(app, orders, new)
        finally:
            counting.cancel()
            await app.close(orders.settings.smtpgw.stop_timeout)
        return self._status

    async def _change(self, app: App, old: Orders, new: Orders) -> Orders:
        try:
            await app.apply(new, self._failed)
        except ConfigError as error:
            self._answer(control.REFUSED + str(error).encode()[:1000])
            return old
        self._set_up_logs(new)
        openfiles.raise_to(open_files.wanted(new.settings.smtpgw), self._log)
        self._choose_processor(new.settings.smtpgw)
        self._answer(control.READY)
        return new

    def _choose_processor(self, settings: Smtpgw) -> None:
        if settings.worker_cpu_affinity:
            cores.keep(self._shard, settings.workers, self._log)
        else:
            cores.release(self._log)

    def _set_up_logs(self, orders: Orders) -> None:
        settings = orders.settings.log
        logs.setup(settings.format, settings.level, daemon="smtpgw", worker=self._shard)

    def _failed(self, error: BaseException) -> None:
        """The queue cannot go on: a restart looks at what the disk really holds."""
        self._log.critical("deliveries stopped", reason=str(error), exc_info=error)
        self._status = 1
        self._stop.set()

    async def _first(self) -> Orders | None:
        orders = await self._unless_stopped(self._orders.get())
        if orders is not None:
            self._set_up_logs(orders)
        return orders

    async def _unless_stopped(self, work: Coroutine[object, object, Result]) -> Result | None:
        """What `work` comes to, or None if it is time to stop before that."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done() and not self._stop.is_set():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    def _read(self) -> None:
        try:
            self._orders.put_nowait(control.receive_orders(self._channel))
        except BlockingIOError:
            return
        except (SupervisorGone, ConnectionError):
            asyncio.get_running_loop().remove_reader(self._channel)
            self._log.warning("the supervisor is gone, so this worker ends")
            self._stop.set()

    def _answer(self, word: bytes) -> None:
        try:
            self._channel.send(word)
        except OSError as error:
            self._log.warning("no answer to the supervisor", reason=str(error))


def main(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the worker with this number; the exit status."""
    (shard,) = map(int, words)
    number = environ.get(control.CHANNEL, "")
    if not number.isdecimal():
        raise SystemExit("smtpgw worker: started by smtpgw run, not by hand")
    channel = socket.socket(fileno=int(number))
    channel.set_inheritable(False)
    sys.setswitchinterval(SWITCH)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            others = ThreadPoolExecutor(thread_name_prefix="asyncio", initializer=cores.roam)
            runner.get_loop().set_default_executor(others)
            return runner.run(Worker(shard, channel).run())
    except (QueueError, OSError, ConfigError) as error:
        logs.get("worker").critical("worker cannot work", reason=str(error))
        return 1
    finally:
        metrics.flush()
        logs.flush()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if status:
        # Python would close what is open: see smtpgw.queue.schema.leave_open.
        os._exit(status)
    raise SystemExit(0)
