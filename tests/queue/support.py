"""What the queue's and the delivery's tests share: clocks, mails, a store that is open."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from milterd.core.decision import Reason
from milterd.core.mail import BytesBody, Client, Envelope, Mail, Recipient, Session, parse_message
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.schema import APPLICATION
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.store import NewMail

T = TypeVar("T")
START = 1_700_000_000.0
REASONS = (Reason("clamav", "clean", {"engine": "1.4"}), Reason("dkim", "signed"))


class FakeClock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.wall_time, self.monotonic_time = START, 1000.0

    def wall(self) -> float:
        return self.wall_time

    def monotonic(self) -> float:
        return self.monotonic_time

    def go(self, seconds: float) -> None:
        self.wall_time += seconds
        self.monotonic_time += seconds


def run(work: Coroutine[Any, Any, T], limit: float = 30.0) -> T:
    """Run to the end, or fail after `limit` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await work

    return asyncio.run(bounded())


async def until(done: Callable[[], object], limit: float = 10.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(limit):
        while not done():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.005)


def message(
    text: bytes = b"hello\r\n",
    *,
    sender: bytes = b"a@example.com",
    rcpts: tuple[bytes, ...] = (b"u@example.net",),
    sender_args: tuple[bytes, ...] = (),
    rcpt_args: tuple[bytes, ...] = (),
    head: bytes = b"From: a@example.com\r\nSubject: t\xe9st\r\n\tfolded\r\nX :odd\r\n\r\n",
) -> Mail:
    """A mail with 8-bit and oddly folded fields."""
    mail = parse_message(head + text)
    return Mail(
        session=Session(Client(b"[192.0.2.1]"), b"helo.example", macros={"i": b"x\xff"}),
        envelope=Envelope(sender, sender_args, tuple(Recipient(r, rcpt_args) for r in rcpts)),
        headers=mail.headers,
        body=BytesBody(text),
        separator=mail.separator,
    )


def new(store: SqliteStore, mail: Mail, *, at: float = START, hold: str | None = None) -> NewMail:
    """To be queued, under a new id."""
    return NewMail(store.new_id(), mail, arrived=at, born=at, reasons=REASONS, hold=hold)


@contextlib.asynccontextmanager
async def opened(
    directory: Path,
    clock: FakeClock | QueueClock | None = None,
    options: SqliteOptions | None = None,
) -> AsyncIterator[SqliteStore]:
    """A recovered store on `directory`."""
    queue_clock = clock if isinstance(clock, QueueClock) else QueueClock(clock or FakeClock())
    options = options or SqliteOptions(queue_minfree=0)
    store = SqliteStore.open(directory, options, clock=queue_clock)
    try:
        await store.recover(queue_clock.now())
        yield store
    finally:
        await store.close()


def make_first_version(path: Path) -> None:
    """Give a queue the tables that the first version had."""
    db = sqlite3.connect(path)
    db.executescript(
        "DROP INDEX mail_state; DROP INDEX mail_leased; DROP INDEX mail_turn; DROP INDEX mail_age;"
        "DROP INDEX mail_unfiled; DROP INDEX content_file;"
        "DROP TABLE lane; DROP TABLE flow; DROP TABLE rest; DROP TABLE attempt; DROP TABLE handed;"
        "DROP TABLE caught;"
        "ALTER TABLE mail DROP COLUMN sole;"
        "ALTER TABLE mail DROP COLUMN site; ALTER TABLE mail DROP COLUMN flow;"
        "ALTER TABLE mail DROP COLUMN doomed; ALTER TABLE mail DROP COLUMN deaths;"
        "ALTER TABLE mark DROP COLUMN wall; CREATE INDEX mail_due ON mail (state, due);"
        f"PRAGMA user_version=1; PRAGMA application_id={APPLICATION};"
    )
    db.close()
