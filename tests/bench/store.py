"""How many mails a second the store commits: 50 clients at once, 4 kB each.

.venv/bin/python -m tests.bench.store [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from milterd.core.mail import Envelope, Recipient, parse_message
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteStore

MAILS, CLIENTS = 9000, 50
_MESSAGE = b"From: a@example.com\r\nSubject: bench\r\n\r\n" + b"x" * 70 + b"\r\n"


async def _run(directory: Path) -> None:
    clock = QueueClock(SystemClock())
    store = SqliteStore.open(directory / "00", clock=clock)
    await store.recover(clock.now())
    intake = Intake(store, clock)
    mail = parse_message(_MESSAGE + b"y" * 78 * 50 + b"\r\n")
    envelope = Envelope(b"a@example.com", (), (Recipient(b"u@example.net"),))
    numbers = itertools.count()

    async def client() -> None:
        while next(numbers) < MAILS:
            new = type(mail)(mail.session, envelope, mail.headers, mail.body, mail.separator)
            await intake.accept(new, queue_id=intake.new_id())

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    took = time.perf_counter() - began
    print(f"accepted {MAILS / took:,.0f}/s in {store.committer.transactions} transactions")

    began, done = time.perf_counter(), 0
    while leases := await store.lease(clock.now() + 1, 200, 60.0):
        done += len(leases)
    took = time.perf_counter() - began
    print(f"leased   {done / took:,.0f}/s")
    await store.close()


def main() -> None:
    """Run in a new directory, on the device of the one that was named."""
    where = sys.argv[1] if len(sys.argv) > 1 else None
    with (
        tempfile.TemporaryDirectory(dir=where) as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_run(Path(directory)))


if __name__ == "__main__":
    main()
