"""The process that is killed while it releases and expires mails in quarantine.

python -m tests.queue.quarantine_victim DIRECTORY
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

from milterd.base import logs
from milterd.core.finding import Found
from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient
from smtpgw.chain.health import Health
from smtpgw.intake import Intake
from smtpgw.quarantine.again import Again, Way
from smtpgw.quarantine.keeper import Keeper, KeeperOptions
from smtpgw.queue import quarantine
from smtpgw.queue.caught import Caught
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteStore
from tests.queue.victim import OPTIONS

ENTRIES = 4
DONE = {"INCOMING": ENTRIES, "QUARANTINE": 1}
"""How many mails stand where in the end."""
__all__ = ["DONE", "ENTRIES", "OPTIONS", "fill"]


def _mail(number: int, size: int) -> Mail:
    return Mail(
        envelope=Envelope(b"a@example.com", (), (Recipient(b"u@example.net"),)),
        headers=(HeaderField(b"X-Number", b" %d" % number),),
        body=BytesBody(b"x" * size),
    )


async def fill(directory: Path) -> None:
    """Entries to be released, one that expires, and one that stays."""
    clock = QueueClock(SystemClock())
    store = SqliteStore.open(directory, OPTIONS, clock=clock)
    await store.recover(clock.now())
    intake = Intake(store, clock)
    found = Caught((Found("m", "virus"),))
    for number in range(ENTRIES + 2):
        size = 30_000 if number % 2 else 400
        queue_id = intake.new_id()
        entry = replace(found, lifetime=0.0) if number == ENTRIES else found
        await intake.keep(_mail(number, size), entry, queue_id=queue_id)
        if number < ENTRIES:
            await store.change(
                lambda batch, _, one=queue_id: quarantine.let_go(batch, one, clock.now())
            )
    await store.close()


async def _main(directory: Path) -> None:
    clock = QueueClock(SystemClock())
    store = SqliteStore.open(directory, OPTIONS, clock=clock)
    await store.recover(clock.now())
    log = logs.get("quarantine")
    again = Again({}, Way(), Health(time.monotonic), log, time.monotonic)
    keeper = Keeper(
        store, Intake(store, clock), clock, again, KeeperOptions(60.0), log, lambda _what, _n: None
    )
    await keeper.look()
    await store.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
