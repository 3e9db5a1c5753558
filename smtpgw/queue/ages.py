"""How old the mails of each destination or sender are, as qshape(1) shows it.

One pass over one index (mail_age) for what waits, however many it is; what is in
delivery is a few, and what is held has an index of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from smtpgw.queue import schema
from smtpgw.queue.batch import Batch
from smtpgw.queue.states import MailState

MINUTES = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""The ends of the ages, as qshape(1) has them; one more is for what is older."""

_WAITING = """
SELECT {key}, bucket, sum(n), min(oldest), lane.old FROM (
    SELECT flow, {bucket} AS bucket, count(*) AS n, min(born) AS oldest
    FROM mail INDEXED BY mail_age WHERE flow IS NOT NULL GROUP BY flow, bucket
) AS aged JOIN flow ON flow.id = aged.flow JOIN lane ON lane.id = flow.lane
WHERE lane.old IN ({old}) GROUP BY 1, 2, 5
"""
_OTHERS = """
SELECT {key}, {bucket}, count(*), min(born), 0 FROM mail WHERE {state} GROUP BY 1, 2
"""


@dataclass(slots=True)
class Ages:
    """Mails by age, and when the oldest of them came (queue time)."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(MINUTES) + 1))
    oldest: float = float("inf")

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts)

    def add(self, bucket: int, count: int, oldest: float) -> None:
        """Count some mails of one age."""
        self.counts[bucket] += count
        self.oldest = min(self.oldest, oldest)


def ages(
    batch: Batch, states: Iterable[MailState], now: float, *, by_sender: bool = False
) -> dict[str, Ages]:
    """Ages by destination ('' for mails with several) or by the sender's domain."""
    found: dict[str, Ages] = {}
    wanted = frozenset(states)
    waiting = {MailState.INCOMING: 0, MailState.DEFERRED: 1}
    old = [number for state, number in waiting.items() if state in wanted]
    sql = _WAITING.format(
        key="flow.sender" if by_sender else "lane.site",
        bucket=_bucket(now),
        old=", ".join(map(str, old)),
    )
    rows = batch.db.execute(sql).fetchall() if old else []
    for state in wanted - waiting.keys():
        key = "sender" if by_sender else "site"
        other = _OTHERS.format(key=key, bucket=_bucket(now), state=schema.of_state(state))
        rows += batch.db.execute(other).fetchall()
    for key, bucket, count, oldest, _ in rows:
        name = _domain(key) if by_sender else key
        found.setdefault(name, Ages()).add(bucket, count, oldest)
    return found


def _bucket(now: float) -> str:
    """An expression for the age's number."""
    cases = " ".join(
        f"WHEN born>{now - 60 * minutes!r} THEN {number}" for number, minutes in enumerate(MINUTES)
    )
    return f"(CASE {cases} ELSE {len(MINUTES)} END)"


def _domain(sender: object) -> str:
    """`MAILER-DAEMON` for the null sender, as qshape(1) calls it."""
    octets = sender if isinstance(sender, bytes) else b""
    if not octets:
        return "MAILER-DAEMON"
    return octets.rpartition(b"@")[2].decode("utf-8", "backslashreplace").lower()
