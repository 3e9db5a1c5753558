"""Whose mail comes next: lanes, flows and rests, each function inside the caller's transaction.

A mail that waits (incoming, deferred) stands in a flow: the mails of one sender for one
site.  A site has two lanes of flows, one for mail never tried and one for mail that was.
Lanes take turns, in a lane its flows do, in a flow the mail that is due first: 100,000
mails of one sender or for one site are one flow or one lane among the others.

`ready` is the time of a turn: when the earliest mail inside is due, or when the lane was
last served if that is later, so that who was served goes to the end of the line.  A site
that rests keeps its lanes' turns after its rest; none of its mails is touched for that.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from smtpgw.queue.batch import Batch
from smtpgw.queue.codec import MAIL_COLUMNS
from smtpgw.queue.store import Rest, Wish
from smtpgw.queue.wish import transport

Row = tuple[Any, ...]
_COLUMNS = ", ".join(f"mail.{each.strip()}" for each in MAIL_COLUMNS.split(","))


def file(batch: Batch, site: str, sender: bytes, *, old: bool, due: float) -> int:
    """Make room in a flow for a mail that is due then; the flow, for the mail's row."""
    known = batch.flows.get((site, sender, old))
    if known is not None and known[1] <= due:
        return known[0]
    db = batch.db
    (lane,) = db.execute(
        "INSERT INTO lane (site, old, ready) VALUES (?,?,?)"
        " ON CONFLICT DO UPDATE SET ready=min(ready, excluded.ready) RETURNING id",
        (site, int(old), max(due, _until(db, site))),
    ).fetchone()
    (flow,) = db.execute(
        "INSERT INTO flow (lane, sender, ready) VALUES (?,?,?)"
        " ON CONFLICT DO UPDATE SET ready=min(ready, excluded.ready) RETURNING id",
        (lane, sender, due),
    ).fetchone()
    batch.flows[site, sender, old] = (flow, due)
    return int(flow)


def _until(db: sqlite3.Connection, site: str) -> float:
    row = db.execute("SELECT until FROM rest WHERE site=?", (site,)).fetchone()
    return float(row[0]) if row else float("-inf")


def left(batch: Batch, flow: int, *, served: float = float("-inf")) -> None:
    """A mail has left its flow; `served` is now if that was its turn."""
    db = batch.db
    batch.flows.clear()
    found = db.execute("SELECT lane FROM flow WHERE id=?", (flow,)).fetchone()
    if found is None:
        return
    (lane,) = found
    (due,) = db.execute("SELECT min(due) FROM mail WHERE flow=?", (flow,)).fetchone()
    if due is None:
        db.execute("DELETE FROM flow WHERE id=?", (flow,))
    else:
        db.execute("UPDATE flow SET ready=? WHERE id=?", (max(due, served), flow))
    _settle_lane(db, lane, served)


def _settle_lane(db: sqlite3.Connection, lane: int, served: float) -> None:
    (ready,) = db.execute("SELECT min(ready) FROM flow WHERE lane=?", (lane,)).fetchone()
    if ready is None:
        db.execute("DELETE FROM lane WHERE id=?", (lane,))
        return
    db.execute(
        "UPDATE lane SET ready=max(?, ?, ifnull("
        "(SELECT until FROM rest WHERE rest.site=lane.site), -1e99)) WHERE id=?",
        (ready, max(served, -1e99), lane),
    )


def choose(db: sqlite3.Connection, now: float, limit: int, wish: Wish) -> list[Row]:
    """Rows of mails whose turn it is: those overdue, then new and old lanes by halves.

    What one half does not use is the other's; a site's room is for both together.
    """
    chosen = _overdue(db, now, limit, wish)
    taken = {row[0] for row in chosen}
    room = _Room(wish)
    old = _of_lanes(db, now, limit - len(chosen), 1, _Room(wish), taken)
    half = max((limit - len(chosen)) // 2, limit - len(chosen) - len(old))
    chosen += _of_lanes(db, now, half, 0, room, taken)
    for row in old:
        if len(chosen) < limit and room.take(row[_SITE], 1):
            chosen.append(row)
    return chosen


_SITE = [each.strip() for each in MAIL_COLUMNS.split(",")].index("site")


_ANY = 1 << 30
"""More than there is."""


@dataclass(slots=True)
class _Room:
    """How many mails of each site may still be chosen; '' is no site and has no limit."""

    wish: Wish
    used: Counter[str] = field(default_factory=Counter)
    of_transport: Counter[str] = field(default_factory=Counter)

    def left(self, site: str) -> int:
        """How many more."""
        if not site:
            return _ANY
        wish, name = self.wish, transport(site)
        room = wish.most(site)
        together = wish.together.get(name, _ANY) - self.of_transport[name]
        return min(room - self.used[site], together)

    def take(self, site: str, wanted: int) -> int:
        """Take up to so many; how many it is."""
        taken = max(min(self.left(site), wanted), 0)
        self.used[site] += taken
        self.of_transport[transport(site)] += taken
        return taken


def _of_lanes(
    db: sqlite3.Connection, now: float, limit: int, old: int, room: _Room, taken: set[int]
) -> list[Row]:
    if limit <= 0:
        return []
    full = sum(each <= 0 for each in room.wish.room.values())
    # Those of a transport that is full, however many, must not stand before all others.
    shut = [name for name, left in room.wish.together.items() if left <= 0]
    but = " AND NOT (site>=? AND site<?)" * len(shut)
    names = [bound for name in shut for bound in (f"{name}:", f"{name};")]
    lanes = [
        (lane, site)
        for lane, site in db.execute(
            f"SELECT id, site FROM lane WHERE old=? AND ready<=?{but} ORDER BY ready LIMIT ?",  # noqa: S608 - constant text
            (old, now, *names, limit + full),
        )
        if room.left(site) > 0
    ]
    share = max(limit // max(len(lanes), 1), 1)
    chosen: list[Row] = []
    for lane, site in lanes:
        wanted = room.take(site, min(share, limit - len(chosen)))
        if wanted <= 0:
            continue
        chosen += _of_flows(db, now, lane, wanted, taken)
        if len(chosen) >= limit:
            break
    return chosen


def _of_flows(
    db: sqlite3.Connection, now: float, lane: int, limit: int, taken: set[int]
) -> Iterator[Row]:
    flows = db.execute(
        "SELECT id FROM flow WHERE lane=? AND ready<=? ORDER BY ready LIMIT ?", (lane, now, limit)
    ).fetchall()
    share = max(limit // max(len(flows), 1), 1)
    for (flow,) in flows:
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM mail WHERE flow=? AND due<=? ORDER BY due LIMIT ?",  # noqa: S608 - constant columns
            (flow, now, share),
        ).fetchall()
        yield from (row for row in rows if row[0] not in taken)


def _overdue(db: sqlite3.Connection, now: float, limit: int, wish: Wish) -> list[Row]:
    """Mails whose lifetime or silence is over, though their site may rest."""
    rows: dict[int, Row] = {}
    for warned, born, null_too in (
        (0, wish.late, False),
        (0, wish.expired, False),
        (1, wish.expired, False),
        (0, wish.expired_null, True),
        (1, wish.expired_null, True),
    ):
        if born == float("-inf"):
            continue
        found = db.execute(
            f"SELECT {_COLUMNS} FROM mail INDEXED BY mail_age WHERE flow IS NOT NULL AND warned=?"  # noqa: S608 - constant columns
            " AND (sender=x'')=? AND born<? AND due<=? ORDER BY born LIMIT ?",
            (warned, null_too, born, now, limit - len(rows)),
        )
        rows |= {row[0]: row for row in found}
    return list(rows.values())[:limit]


def rest(batch: Batch, site: str, until: float, note: str) -> None:
    """Leave a site alone until then."""
    db = batch.db
    batch.flows.clear()
    db.execute(
        "INSERT INTO rest VALUES (?,?,?)"
        " ON CONFLICT DO UPDATE SET until=excluded.until, note=excluded.note",
        (site, until, note),
    )
    db.execute("UPDATE lane SET ready=max(ready, ?) WHERE site=?", (until, site))


def resting(db: sqlite3.Connection, now: float) -> list[Rest]:
    """The sites that are left alone."""
    found = db.execute("SELECT site, until, note FROM rest WHERE until>? ORDER BY site", (now,))
    return [Rest(*row) for row in found]


def end_rests(batch: Batch, site: str | None = None) -> None:
    """Try a site again, or all of them: somebody flushed the queue."""
    db = batch.db
    batch.flows.clear()
    where, values = ("", ()) if site is None else (" WHERE site=?", (site,))
    sites = db.execute(f"DELETE FROM rest{where} RETURNING site", values).fetchall()  # noqa: S608 - constant text
    for (each,) in sites:
        for (lane,) in db.execute("SELECT id FROM lane WHERE site=?", (each,)).fetchall():
            _settle_lane(db, lane, float("-inf"))


def drop_old_rests(db: sqlite3.Connection, now: float) -> None:
    """Forget rests that are over."""
    db.execute("DELETE FROM rest WHERE until<=?", (now,))


def hurry(db: sqlite3.Connection, now: float) -> None:
    """Give every flow and lane its turn now; their mails have been made due."""
    db.execute("UPDATE flow SET ready=? WHERE ready>?", (now, now))
    db.execute("UPDATE lane SET ready=? WHERE ready>?", (now, now))


def hurry_flows(batch: Batch, flows: Iterable[int], now: float) -> None:
    """Give some flows their turn now, and end the rest of their sites."""
    lanes: dict[int, str] = {}
    for flow in flows:
        batch.db.execute("UPDATE flow SET ready=min(ready, ?) WHERE id=?", (now, flow))
        lane, site = batch.db.execute(
            "SELECT lane.id, site FROM lane JOIN flow ON flow.lane=lane.id WHERE flow.id=?", (flow,)
        ).fetchone()
        lanes[lane] = site
    for site in set(lanes.values()):
        end_rests(batch, site)
    for lane in lanes:
        batch.db.execute("UPDATE lane SET ready=min(ready, ?) WHERE id=?", (now, lane))


def next_turn(db: sqlite3.Connection, now: float) -> float | None:
    """When the next turn comes that is not there yet."""
    (ready,) = db.execute("SELECT min(ready) FROM lane WHERE old=0 AND ready>?", (now,)).fetchone()
    (other,) = db.execute("SELECT min(ready) FROM lane WHERE old=1 AND ready>?", (now,)).fetchone()
    return min((each for each in (ready, other) if each is not None), default=None)
