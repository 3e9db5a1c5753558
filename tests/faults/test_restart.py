"""F26 to F28 and F32: what a gateway finds in its queue, and what it cannot read or remove.

Every column of every row gets values it cannot have, and every body file is cut, flipped or
replaced; then a real gateway starts on it.  A damaged mail is set aside and listed with its
reason, or is whole; what was not damaged is delivered, and nothing is delivered that was not sent.
(F27, kill -9 again and again, and F03 are tests/crash/test_kill.py; F28, a second gateway, is
tests/gateway/test_process.py.)
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from smtpgw.cli import app
from smtpgw.queue.clock import QueueClock, SystemClock
from tests.faults import place
from tests.gateway.gateway import Gateway, until
from tests.queue.support import message, new, opened, run

pytestmark = pytest.mark.xdist_group("faults-restart")

_COLUMNS = {
    "mail": "id state due born arrived size sender facts sum attempts token warned held note site"
    " flow deaths sole",
    "recipient": "number address args state enhanced text remote destination at",
    "content": "head body size sum",
}
"""All but keys, and `doomed`, whose any text asks for a bounce (`queue bounce`)."""
_VALUES = (None, -1, 2**62, "x", b"\xff", "", 1e308, -1e308)
GOOD = 20
_LATER = "minimal_backoff_time = '1h'\nmaximal_backoff_time = '1h'"
"""What was deferred comes again when it is flushed."""


@dataclass(frozen=True)
class Damage:
    """What happens to one mail, and the statement or the deed that does it."""

    name: str
    column: tuple[str, str, Any] | None = None
    file: Callable[[Path], object] | None = None


def _flip(path: Path, at: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[at] ^= 0x10
    path.write_bytes(octets)


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _damages() -> Iterator[Damage]:
    for table, names in _COLUMNS.items():
        for each in names.split():
            for value in _VALUES:
                yield Damage(f"{table}.{each} is {value!r}", (table, each, value))
    for length in (0, 1, 4095, 4096, 65536, 262_145, 269_999, 270_001, 300_000):
        yield Damage(f"file of {length}", file=partial(os.truncate, length=length))
    for at in (0, 1, 4096, 131_072, 269_999):
        yield Damage(f"bit at {at}", file=partial(_flip, at=at))
    yield Damage("no file", file=Path.unlink)
    yield Damage("a link", file=partial(_instead, make=lambda path: path.symlink_to("/etc/passwd")))
    yield Damage("a directory", file=partial(_instead, make=Path.mkdir))
    yield Damage("a pipe", file=partial(_instead, make=os.mkfifo))
    for table in ("content", "recipient"):
        yield Damage(f"no {table}", (table, "", None))


def _body(number: int, large: bool) -> bytes:
    line = b"the mail of number %04d\r\n\r\n.\r\n"  # 30 octets
    return (line % number)[:30] * (9000 if large else 3)


@dataclass
class Queue:
    """The queue of a gateway that does not run yet, with a mail for each number."""

    gateway: Gateway
    ids: dict[int, str]

    def command(self, *words: str) -> str:
        done = CliRunner().invoke(app, ["queue", *words, "-c", str(self.gateway.file)])
        assert done.exit_code == 0, done.output
        return done.output

    def listed(self, *words: str) -> list[dict[str, Any]]:
        found = self.command("list", "--json", "--limit", "10000", *words)
        return [json.loads(line) for line in found.splitlines()]

    def path(self, number: int) -> Path:
        """Where a body stands that is too large for a row."""
        return self.gateway.queue / "00/bodies" / self.ids[number]

    def harm(self, damages: Sequence[Damage]) -> None:
        """Do them, one to each mail."""
        path = self.gateway.queue / "00/queue.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=OFF")
            columns = {row[1] for row in db.execute("PRAGMA table_info(mail)")}
            assert columns == {"seq", "doomed", *_COLUMNS["mail"].split()}, "a new column"
            for number, each in enumerate(damages):
                if each.file is not None:
                    each.file(self.path(number))
                    continue
                assert each.column is not None
                # What SQLite itself refuses, a NULL here and there, would not be found later.
                with contextlib.suppress(sqlite3.IntegrityError):
                    _harm(db, self.ids[number], *each.column)


def _harm(db: sqlite3.Connection, queue_id: str, table: str, column: str, value: object) -> None:
    what = f"UPDATE {table} SET {column}=?2" if column else f"DELETE FROM {table}"
    which = "seq" if table == "mail" else "mail"
    values = (queue_id, value)[: 1 + bool(column)]
    db.execute(f"{what} WHERE {which}=(SELECT seq FROM mail WHERE id=?1)", values)


def _fill(gateway: Gateway, large: Sequence[bool], hold: str | None = None) -> Queue:
    """A mail for a recipient of its own each, as the gateway itself would have queued it."""

    async def scenario() -> dict[int, str]:
        clock = QueueClock(SystemClock())
        async with opened(gateway.queue / "00", clock) as store:
            ids = {}
            for number, each in enumerate(large):
                mail = message(_body(number, each), rcpts=(b"u%d@example.net" % number,))
                added = new(store, mail, at=clock.now(), hold=hold)
                await store.add(added)
                ids[number] = added.queue_id
            return ids

    return Queue(gateway, run(scenario(), 100))


def _arrived(gateway: Gateway, number: int) -> list[bytes]:
    """The bodies in a mailbox, as they were sent."""
    new = gateway.mail / f"u{number}@example.net/new"
    found = [each.read_bytes() for each in new.iterdir()] if new.is_dir() else []
    return [each.partition(b"\n\n")[2].replace(b"\n", b"\r\n") for each in found]


def test_damage_is_listed_and_stops_nothing() -> None:
    """F26, J17: a queue in which nearly every mail is damaged, each in another way."""
    damages = list(_damages())
    with place.home() as home, place.gateway(home) as gateway:
        queue = _fill(gateway, [each.file is not None for each in damages] + [False] * GOOD)
        queue.harm(damages)
        rotten = len(damages)
        database = gateway.queue / "00/queue.db"
        _flip(database, database.read_bytes().index(b"the mail of number %04d" % rotten))
        assert len(queue.listed()) > GOOD, "what is damaged does not stop a list"
        for words in (["list"], ["list", "--older", "1h"], ["shape"], ["top", "--once"]):
            queue.command(*words)
        gateway.start()

        def settled() -> bool:
            """Whether all that has no corrupt row is out, or held as its row says now."""
            return all(each["state"] in ("corrupt", "hold") for each in queue.listed())

        until(settled, 60, "all but what is damaged is delivered")
        assert gateway.count("child started") == 1, "the worker had to begin anew"
        assert _errors(gateway) == []
        corrupt = queue.listed("--state", "corrupt")
        assert all(each["reason"] for each in corrupt)
        there = sum(bool(_arrived(gateway, number)) for number in queue.ids)
        assert there + len(corrupt) == len(queue.ids), "not one is missing"
        assert queue.ids[rotten] in {each["queue_id"] for each in corrupt}
        for number, how in enumerate(damages):
            sent = _body(number, how.file is not None)
            assert _arrived(gateway, number) in ([], [sent]), how.name
        for number in range(rotten + 1, len(queue.ids)):
            assert _arrived(gateway, number) == [_body(number, False)]
        assert corrupt[0]["reason"] in queue.command("show", corrupt[0]["queue_id"])
        queue.command("delete", "--state", "corrupt", "--yes")
        assert queue.listed() == []


def test_what_cannot_be_read_is_tried_again_and_what_cannot_be_removed_is_not_sent_again() -> None:
    """F32: EIO from a body file proves nothing about its mail; EIO from unlink costs a start."""
    with place.home() as home, place.gateway(home, queue=_LATER) as gateway:
        queue = _fill(gateway, [True], hold="until it can be watched")
        (queue_id,) = queue.ids.values()
        gateway.start()
        worker = place.worker(gateway)
        with place.failing(worker, "pread64:error=EIO", home, queue.path(0)):
            queue.command("release", queue_id)
            until(lambda: gateway.count("delivery", outcome="deferred") == 1)
        (told,) = gateway.told("queue.read")
        assert (told["queue_id"], told["reason"]) == (queue_id, "body file: Input/output error")
        # The postmaster is told of it by a mail of its own, which goes.
        (kept,) = until(lambda: (found := queue.listed()) and len(found) == 1 and found)
        assert (kept["state"], kept["attempts"]) == ("deferred", 1)
        assert "Input/output error" in kept["reason"]
        with place.failing(worker, "unlink,unlinkat:error=EIO", home, queue.path(0)):
            queue.command("flush", "ALL")
            (told,) = until(lambda: gateway.events("queue.body"))
        assert (told["queue_id"], told["outcome"]) == (queue_id, "left")
        assert told["reason"] == "Input/output error"
        assert queue_id not in {each["queue_id"] for each in queue.listed()}
        assert queue.path(0).exists()
        gateway.stop()
        gateway.start()
        assert gateway.told("queue open")[-1]["orphans"] == 1
        assert not queue.path(0).exists()
        sent = gateway.count("delivery", outcome="delivered", recipient="u0@example.net")
        assert len(_arrived(gateway, 0)) == sent == 1


def test_a_directory_that_cannot_be_listed_stops_nothing() -> None:
    """F32: readdir fails at the start; what is in the queue is delivered all the same."""
    with place.home() as home, place.gateway(home) as gateway:
        queue = _fill(gateway, [True, False])
        bodies, taken = gateway.queue / "00/bodies", gateway.queue / "drop/taken"
        traced = ["strace", "-D", "-f", "--seccomp-bpf", "-o", str(home / "trace")]
        traced += ["-e", "trace=getdents64", "-e", "inject=getdents64:error=EIO"]
        gateway.start(prefix=[*traced, f"--trace-path={bodies}", f"--trace-path={taken}"])
        (told,) = gateway.told("queue.bodies")
        assert told["reason"] == f"{bodies}: Input/output error"
        until(lambda: queue.listed() == [])
        assert [len(_arrived(gateway, number)) for number in range(2)] == [1, 1]
        told = until(lambda: gateway.events("pickup", outcome="tempfailed"))[0]
        assert "Input/output error" in told["reason"]
        assert gateway.send()[0] == 250
        assert gateway.count("child started") == 1


def _errors(gateway: Gateway) -> list[dict[str, Any]]:
    """What the log has of level error, but for the news about damage."""
    serious = [each for each in gateway.log() if each["level"] in ("error", "critical")]
    return [each for each in serious if each["event"] != "queue.corrupt"]
