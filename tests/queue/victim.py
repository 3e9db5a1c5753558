"""The process that crash tests kill: it queues and delivers, and writes down what it did.

    python -m tests.queue.victim DIRECTORY

Prints READY, waits for a line, then works until it is killed.  On its standard output
stand, each as one write: `acked ID` after an accept, `sent ID` before a settlement,
`failed CODE` for each refusal.  A body can be told from its id: see `body`.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import sys
from pathlib import Path

from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.committer import CommitterOptions
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.states import RecipientEvent
from smtpgw.queue.store import QueueError, Result, Settlement, StoreFailed

OPTIONS = SqliteOptions(
    inline_limit=20_000,
    queue_minfree=0,
    reserve=100_000,
    committer=CommitterOptions(checkpoint=150_000),
    log=150_000,
)
_SIZES = (400, 30_000, 4_000)
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)


def body(queue_id: str, size: int) -> bytes:
    """The body that belongs to this id."""
    line = queue_id.encode() * 5 + b"\r\n"
    return (line * (size // len(line) + 1))[:size]


def mail(queue_id: str, size: int) -> Mail:
    """The mail that belongs to this id."""
    return Mail(
        envelope=Envelope(b"a@example.com", (), (Recipient(b"u@example.net"),)),
        headers=(HeaderField(b"X-Size", b" %d" % size),),
        body=BytesBody(body(queue_id, size)),
    )


def say(text: str) -> None:
    """One line, one write."""
    os.write(1, text.encode() + b"\n")


async def _accept(intake: Intake, numbers: itertools.count[int]) -> None:
    while True:
        queue_id, size = intake.new_id(), _SIZES[next(numbers) % len(_SIZES)]
        try:
            await intake.accept(mail(queue_id, size), queue_id=queue_id)
        except QueueError as error:
            say(f"failed {error.code} {type(error).__name__}")
            await asyncio.sleep(0.01)
        else:
            say(f"acked {queue_id}")


async def _send(store: SqliteStore, clock: QueueClock) -> None:
    while True:
        try:
            for lease in await store.lease(clock.now(), 3, 60.0):
                queue_id = lease.mail.queue_id
                await store.content(queue_id)
                say(f"sent {queue_id}")
                result = Result(0, RecipientEvent.DELIVER, "2.0.0", "ok")
                now = clock.now()
                await store.settle(Settlement(queue_id, lease.token, now, (result,), now))
        except StoreFailed:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.002)


async def _main(directory: Path) -> None:
    clock = QueueClock(SystemClock())
    store = SqliteStore.open(directory, OPTIONS, clock=clock)
    await store.recover(clock.now())
    intake = Intake(store, clock)
    numbers = itertools.count()
    say("READY")
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(_send(store, clock), *(_accept(intake, numbers) for _ in range(6)))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY)
    asyncio.run(_main(Path(sys.argv[1])))
