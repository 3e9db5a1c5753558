"""pickup(8): takes mail from the drop directory into the queue, each exactly once.

A file is moved away, its mail is queued in one transaction with the file's name, the file
is removed, the removal synced, and the name forgotten.  Whatever is found after a crash is
asked for by its name first, so no mail is queued twice and none is lost.

It looks once a second, and at once when it is poked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from smtpgw.drop_room import DropRoom, NotNow, Unfit
from smtpgw.local.drop import WAKE, Public
from smtpgw.local_mail import Fate, Handed, LocalMeans, LocalPlan, LocalRoad
from smtpgw.queue.store import QueueError, Store

LOOK_EVERY = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a mail that could not be taken is tried again; doubled each time."""

AT_ONCE = 32
"""Mails on their way at the same time; they share the queue's commits."""

MANY = 10_000
"""Files that are known at a time; the others stay where they are until then."""


@dataclass(frozen=True, slots=True)
class PickupOptions:
    """The drop directory, what the command is told, and the road of its mail."""

    directory: Path
    public: Public
    local: LocalPlan


@dataclass(slots=True)
class _Waiting:
    since: float
    due: float = float("-inf")
    pause: float = FIRST_PAUSE


class Pickup:
    """The directory at work.  Use :meth:`start`, then :meth:`stop`; to change the settings,
    stop it and start another."""

    def __init__(
        self, store: Store, means: LocalMeans, options: PickupOptions, log: FilteringBoundLogger
    ) -> None:
        self._store, self._means, self._options, self._log = store, means, options, log
        self._room = DropRoom(options.directory)
        self._road = LocalRoad(means, options.local)
        self._waiting: dict[str, _Waiting] = {}
        self._poked = asyncio.Event()
        self._bell: socket.socket | None = None
        self._inode = 0
        self._task: asyncio.Task[None] | None = None

    async def start(
        self, queue: Path, failed: Callable[[BaseException], None], former: Iterable[Path] = ()
    ) -> None:
        """Make the directory, take over what is in `former` ones, and begin.  Raises OSError."""
        await asyncio.to_thread(self._room.prepare, self._options.public, queue)
        for each in former:
            await self._take_over(each)
        self._hang_bell()

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(error)

        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(ended)

    async def _take_over(self, former: Path) -> None:
        """What is left of an earlier drop directory; it stops nothing else."""
        try:
            stay = await asyncio.to_thread(self._room.take_over, former)
            reason = (
                "on another device: move them, with their owners, into new/ of the drop directory"
            )
        except OSError as error:
            stay, reason = [str(error.filename)], str(error)
        if stay:
            self._log.error("drop.left", directory=str(former), files=len(stay), reason=reason)

    async def stop(self) -> None:
        """Break off; what is not taken yet stays where it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._bell is not None:
            asyncio.get_running_loop().remove_reader(self._bell)
            self._bell.close()
            self._take_down_bell()

    def _take_down_bell(self) -> None:
        """Leave no socket behind that nobody reads; one that another hung stays."""
        path = self._options.directory / WAKE
        try:
            if path.stat(follow_symlinks=False).st_ino == self._inode:
                path.unlink()
        except OSError as error:
            self._log.warning("pickup's socket stays", path=str(path), reason=str(error))

    def _hang_bell(self) -> None:
        """The socket the command pokes.  Without it, mail is found at the next look."""
        path = self._options.directory / WAKE
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            bell.bind(str(path))
            path.chmod(0o622)
            self._inode = path.stat(follow_symlinks=False).st_ino
        except OSError as error:
            bell.close()
            self._log.warning("pickup cannot be poked", path=str(path), reason=str(error))
            return
        self._bell = bell
        asyncio.get_running_loop().add_reader(bell, self._rung)

    def _rung(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(OSError):  # all that is there at once is one poke
                while self._bell.recv(16):
                    pass
        self._poked.set()

    async def _run(self) -> None:
        for each in await self._left():
            self._waiting[each] = _Waiting(self._means.clock())
        while True:
            self._poked.clear()
            try:
                more = await self._look()
            except (OSError, QueueError) as error:
                self._log.error("pickup", outcome="tempfailed", reason=str(error))
                await asyncio.sleep(LOOK_EVERY)
                continue
            if not more:
                # Not wait_for(): CPython 3.11's forgets that it was cancelled when a poke comes
                # in the same moment, and stop() would wait for ever.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._poked.wait()

    async def _left(self) -> Iterable[str]:
        """What the last run began with; a directory that cannot be read stops nothing else."""
        while True:
            try:
                return await asyncio.to_thread(self._room.left)
            except OSError as error:
                self._log.error("pickup", outcome="tempfailed", reason=str(error))
                await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> bool:
        """Take what can be taken; whether there may be more at once."""
        room = min(MANY - len(self._waiting), 10 * AT_ONCE)
        new, strange = await asyncio.to_thread(self._room.claim, max(room, 0), self._means.wall())
        for each in strange:
            self._log.error("drop.corrupt", file=each, reason="not a drop file's name")
        now = self._means.clock()
        self._waiting |= {each: _Waiting(now) for each in new}
        due = [name for name, each in self._waiting.items() if each.due <= now]
        for some in _batches(due, AT_ONCE):
            await self._take_some(some)
        return len(new) == room > 0

    async def _take_some(self, names: list[str]) -> None:
        before = await self._store.handed(names)
        left = [each for each in names if each not in before]
        done = await asyncio.gather(*map(self._take, left))
        gone = [*before, *(name for name, well in zip(left, done, strict=True) if well)]
        if not gone:
            return
        await asyncio.to_thread(self._room.remove, gone)
        await self._store.forget(gone)
        for each in gone:
            del self._waiting[each]

    async def _take(self, name: str) -> bool:
        """Whether the file is to be removed."""
        options = self._options
        try:
            handed = await asyncio.to_thread(
                self._room.read, name, options.local.content, options.public, self._means.wall()
            )
        except Unfit as error:
            await self._set_aside(name, str(error))
            return False
        except (NotNow, OSError) as error:
            self._log.error("pickup", file=name, outcome="tempfailed", reason=str(error))
            self._later(name)
            return False
        return await self._queue(handed)

    async def _queue(self, handed: Handed) -> bool:
        try:
            fate = await self._road.take(
                handed, self._means.clock() - self._waiting[handed.name].since
            )
        finally:
            handed.content.close()
        if fate is Fate.LATER:
            self._later(handed.name)
        return fate is not Fate.LATER

    def _later(self, name: str) -> None:
        each = self._waiting[name]
        each.due = self._means.clock() + each.pause
        each.pause = min(2 * each.pause, LONGEST_PAUSE)

    async def _set_aside(self, name: str, reason: str) -> None:
        self._log.error("drop.corrupt", file=name, reason=reason)
        await asyncio.to_thread(self._room.set_aside, name)
        del self._waiting[name]


def _batches(names: list[str], size: int) -> Iterable[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
