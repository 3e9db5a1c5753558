"""A queue of any size in seconds: rows as the store itself would have written them.

    python -m tests.scale.fill DIRECTORY MAILS

Every mail has its recipient, content and right checksums, and stands in its flow and lane
if it waits; so whatever is asked of such a queue is answered as for one that mail filled.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient
from smtpgw.queue import codec, ids, schema, turns
from smtpgw.queue.batch import Batch
from smtpgw.queue.shard import Shard
from smtpgw.queue.states import MailState
from smtpgw.queue.store import NewMail

STEP = 10_000
TEXT = "host mx.%s[192.0.2.1] said: 450 4.2.0 try again later"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fill a queue with: mail number N goes to destination N modulo `destinations`,
    comes from sender N modulo `senders`, and is `step` seconds older than the next one.
    One of each `held` is on hold, and one of each `new` was never tried.  `site` is what a
    mail waits for, with its domain in it."""

    mails: int
    now: float
    destinations: int = 50
    senders: int = 1000
    step: float = 0.1
    held: int = 100
    new: int = 4
    site: str = "smtp:{}"


def fill(directory: Path, plan: Plan) -> None:
    """Make a shard and fill it."""
    shard = Shard(directory)
    db = schema.connect(shard.database, busy_timeout=10.0)
    numbers = iter(range(plan.mails))
    while some := list(islice(numbers, STEP)):
        db.execute("BEGIN IMMEDIATE")
        _insert(Batch(db), plan, some)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def _insert(batch: Batch, plan: Plan, numbers: Iterable[int]) -> None:
    db = batch.db
    (last,) = db.execute("SELECT ifnull(max(seq), 0) FROM mail").fetchone()
    prepared = [codec.prepare(_mail(plan, each), None) for each in numbers]
    states = [_state(plan, each) for each in numbers]
    due = plan.now + 300
    together = list(enumerate(zip(prepared, states, strict=True), last + 1))
    mails, told = [], []
    for seq, (each, state) in together:
        waits = state is not MailState.HOLD
        old = state is MailState.DEFERRED
        flow = turns.file(batch, each.site, each.sender, old=old, due=due) if waits else None
        mails.append(
            (seq, state.value, due if waits else None, *each.mail[2:], each.site, flow, int(old))
        )
        text = TEXT % each.site.partition(":")[2] if old else ""
        told += [(seq, *one, int(old), text) for one in each.recipients]
    db.executemany(
        "INSERT INTO mail (seq, state, due, born, id, arrived, size, sender, facts, sum, note,"
        " site, flow, attempts) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        mails,
    )
    db.executemany(
        "INSERT INTO recipient (mail, number, address, args, state, text) VALUES (?,?,?,?,?,?)",
        told,
    )
    db.executemany(
        "INSERT INTO content VALUES (?,?,?,?,?)",
        [(seq, *each.content) for seq, (each, _) in together],
    )


def _state(plan: Plan, number: int) -> MailState:
    if number % plan.held == plan.held - 1:
        return MailState.HOLD
    return MailState.INCOMING if number % plan.new == 0 else MailState.DEFERRED


def _mail(plan: Plan, number: int) -> NewMail:
    born = plan.now - (plan.mails - number) * plan.step
    domain = b"d%d.example" % (number % plan.destinations)
    mail = Mail(
        envelope=Envelope(
            b"s%d@sender.example" % (number % plan.senders),
            (),
            (Recipient(b"u%d@%s" % (number, domain)),),
        ),
        headers=(HeaderField(b"Subject", b" mail %d" % number),),
        body=BytesBody(b"hello\r\n"),
    )
    queue_id = ids.encode(int(born * 1_000_000), 9) + "00" + ids.encode(number % 62**3, 3)
    hold = "looked odd" if _state(plan, number) is MailState.HOLD else None
    return NewMail(queue_id, mail, born, born, hold=hold, site=plan.site.format(domain.decode()))


def expected(plan: Plan) -> Iterator[tuple[MailState, int]]:
    """How many mails stand in each state."""
    yield from Counter(_state(plan, each) for each in range(plan.mails)).items()


if __name__ == "__main__":
    began = time.monotonic()
    fill(Path(sys.argv[1]) / "00", Plan(int(sys.argv[2]), time.time()))
    sys.stdout.write(f"{sys.argv[2]} mails in {time.monotonic() - began:.0f} s\n")
