"""Whose password it is: few at once, in threads, and as long for strangers as for users.

Hashing is slow and large on purpose, so no more than `threads` run at a time, and no more than
`waiting` wait: beyond that a login is put off, and mail goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from milterd.base import cores
from smtpgw.sasl.file import entries, hashing, store
from smtpgw.sasl.file.entries import Entries, Entry
from smtpgw.sasl.file.store import FileError

T = TypeVar("T")


class TooBusy(Exception):  # noqa: N818 - no fault: others were first
    """Too many logins are being looked at, or it took too long."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """`domain` stands behind the @ of names without one.  `timeout` is seconds for a login,
    waiting for its turn included."""

    path: Path
    domain: bytes = b""
    threads: int = 2
    waiting: int = 64
    timeout: float = 20.0


class Judge:
    """Reads the file, and tells whether passwords are right."""

    def __init__(self, options: FileOptions, log: FilteringBoundLogger) -> None:
        self._options, self._log = options, log
        self._known: tuple[Entries, store.Mark] | None = None
        self._spare: bytes = b""
        self._threads: ThreadPoolExecutor | None = None
        self._busy = 0

    async def entries(self) -> Entries | None:
        """What the file says now; None where there is none.  Raises FileError, TooBusy."""
        now = store.mark(self._options.path)
        if now is None:
            self._known = None
            return None
        if self._known is None or self._known[1] != now:
            self._known = await self._in_thread(lambda: store.read(self._options.path))
            for number, reason in self._known[0].problems:
                self._log.error(
                    "bad line in the password file",
                    file=str(self._options.path), line=number, reason=reason,
                )  # fmt: skip
        return self._known[0]

    async def find(self, user: bytes) -> tuple[bytes, Entry | None]:
        """The full name, and the entry if there is one.  Raises FileError, TooBusy."""
        try:
            full = entries.name(user)
        except ValueError:
            return b"", None
        if self._options.domain and b"@" not in full:
            full += b"@" + self._options.domain
        found = await self.entries()
        return full, None if found is None else found.users.get(full)

    async def fits(self, entry: Entry | None, password: bytes) -> bool:
        """Whether this is the password; for nobody it takes as long.  Raises FileError, TooBusy."""
        found = await self.entries()
        if found is None:
            raise FileError(f"{self._options.path}: there is no such file")
        # Any user's hash costs what a user's hash costs; what comes of it is left aside.
        other = next(iter(found.users.values()), None)
        looked_at = entry or other

        def look() -> bool:
            made = looked_at.argon2 if looked_at is not None else self._spare_hash()
            right = hashing.fits(made, password)
            return right and entry is not None

        try:
            return await self._in_thread(look)
        except ValueError as error:
            raise FileError(f"{self._options.path}: {error}") from error

    def _spare_hash(self) -> bytes:
        if not self._spare:
            self._spare = hashing.make(b"nobody's")
        return self._spare

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._busy >= self._options.threads + self._options.waiting:
            raise TooBusy("too many logins at once")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                self._options.threads, "passwords", initializer=cores.roam
            )
        loop = asyncio.get_running_loop()
        self._busy += 1
        future = self._threads.submit(work)
        future.add_done_callback(lambda each: _tell(loop, self._done, each))
        try:
            async with asyncio.timeout(self._options.timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            future.cancel()
            raise TooBusy(f"not within {self._options.timeout:g} s") from None

    def _done(self) -> None:
        self._busy -= 1

    def close(self) -> None:
        """No thread is left behind; logins under way end first, new ones begin anew."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None


def _tell(loop: asyncio.AbstractEventLoop, done: Callable[[], None], _future: Future[Any]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(done)
