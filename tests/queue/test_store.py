"""What the SQLite store keeps, refuses, sets aside and recovers."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.mail import BytesBody, FileBody, HeaderField, body_octets
from smtpgw.intake import Intake, LookupFailed, NoRecipients
from smtpgw.queue import handover, schema, tools
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.committer import CommitterOptions
from smtpgw.queue.shard import Shard
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.states import MailState, RecipientEvent, RecipientState
from smtpgw.queue.store import (
    Damaged,
    Filter,
    NotFound,
    QueueError,
    Result,
    Settlement,
    StaleLease,
    StoreDamaged,
    StoreFull,
    StoreLocked,
)
from smtpgw.queue.tools import QueueTool
from tests.queue.support import REASONS, START, FakeClock, message, new, opened, run

_SMALL = SqliteOptions(inline_limit=100, queue_minfree=0)


@pytest.mark.parametrize("options", [None, _SMALL])
def test_every_octet_and_fact_comes_back(tmp_path: Path, options: SqliteOptions | None) -> None:
    async def scenario() -> None:
        mail = message(
            b"\x00\xff.\r\n" * 100, sender_args=(b"RET=HDRS",), rcpt_args=(b"NOTIFY=\xe9",)
        )
        hidden = (HeaderField(b"Received", b" from us", hidden=True), *mail.headers)
        mail = mail.with_headers(hidden)
        async with opened(tmp_path / "00", options=options) as store:
            item = new(store, mail)
            await store.add(item)
        async with opened(tmp_path / "00", options=options) as store:
            content = await store.content(item.queue_id)
            assert b"".join(content.pieces()) == b"".join(mail.pieces())
            shown = await store.show(item.queue_id)
            assert (shown.sender, shown.sender_args) == (b"a@example.com", (b"RET=HDRS",))
            assert [(r.address, r.args) for r in shown.recipients] == [
                (b"u@example.net", (b"NOTIFY=\xe9",))
            ]
            assert (shown.session, shown.reasons) == (mail.session, REASONS)
            assert (shown.size, shown.arrived, shown.state) == (
                mail.size,
                START,
                MailState.INCOMING,
            )

    run(scenario())


@settings(max_examples=25, deadline=None)
@given(
    st.binary(max_size=300), st.binary(max_size=50), st.lists(st.binary(max_size=20), max_size=3)
)
def test_any_octets_come_back(body: bytes, sender: bytes, args: list[bytes]) -> None:
    async def scenario(directory: Path) -> None:
        mail = message(body, sender=sender, rcpt_args=tuple(args))
        async with opened(directory / "00", options=_SMALL) as store:
            item = new(store, mail)
            await store.add(item)
            content = await store.content(item.queue_id)
            assert b"".join(content.pieces()) == b"".join(mail.pieces())
            (lease,) = await store.lease(START, 1, 1.0)
            assert lease.mail.sender == sender
            assert lease.mail.recipients[0].args == tuple(args)

    with tempfile.TemporaryDirectory() as directory:
        run(scenario(Path(directory)))


def test_a_spooled_file_is_copied(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = tmp_path / "spool"
        spool.write_bytes(b"skip" + b"x" * 300_000)
        with spool.open("rb") as file:
            mail = replace(message(), body=FileBody(file, 4, 300_000))
            async with opened(tmp_path / "00") as store:
                item = new(store, mail)
                await store.add(item)
                spool.unlink()
                file_path = tmp_path / "00/bodies" / item.queue_id
                assert file_path.stat().st_mode & 0o777 == 0o600
                assert file_path.parent.stat().st_mode & 0o777 == 0o700
                content = await store.content(item.queue_id)
                assert content.body.size == 300_000
                assert set(b"".join(content.body.pieces())) == {ord("x")}
                await store.delete(item.queue_id)
                assert not file_path.exists()

    run(scenario())


def test_a_hundred_accepts_share_few_transactions(tmp_path: Path) -> None:
    async def scenario() -> int:
        async with opened(tmp_path / "00") as store:
            before = store.committer.transactions
            await asyncio.gather(*(store.add(new(store, message())) for _ in range(100)))
            assert (await store.counts())[MailState.INCOMING] == 100
            return store.committer.transactions - before

    assert run(scenario()) <= 10


def test_one_bad_operation_does_not_spoil_its_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            twice = new(store, message())
            work = [
                store.add(twice),
                store.add(twice),
                *(store.add(new(store, message())) for _ in range(5)),
            ]
            results = await asyncio.gather(*work, return_exceptions=True)
            assert [isinstance(each, QueueError) for each in results].count(True) == 1
            assert (await store.counts())[MailState.INCOMING] == 6

    run(scenario())


def test_a_second_instance_is_refused_and_told_who(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00"):
            with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
                SqliteStore.open(tmp_path / "00")
        async with opened(tmp_path / "00"):
            pass

    run(scenario())


def test_a_strange_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00").mkdir()
    (tmp_path / "00/queue.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreDamaged, match="not a database"):
        SqliteStore.open(tmp_path / "00")
    (tmp_path / "00/queue.db").unlink()
    db = sqlite3.connect(tmp_path / "00/queue.db")
    db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(StoreDamaged, match="not a queue of this program"):
        SqliteStore.open(tmp_path / "00")


def test_another_version_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00"):
            pass
        db = sqlite3.connect(tmp_path / "00/queue.db")
        db.execute("PRAGMA user_version=99")
        db.close()
        with pytest.raises(StoreDamaged, match=f"version 99, this program knows {schema.VERSION}"):
            SqliteStore.open(tmp_path / "00")

    run(scenario())


def test_a_lease_is_exclusive_and_an_old_one_settles_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await store.add(new(store, message()))
            (first,) = await store.lease(START, 9, 60.0)
            assert await store.lease(START + 59, 9, 60.0) == []
            (second,) = await store.lease(START + 60, 9, 60.0)
            end = Settlement(
                first.mail.queue_id,
                first.token,
                START,
                (Result(0, RecipientEvent.DELIVER, "2.0.0", "ok"),),
                START,
            )
            with pytest.raises(StaleLease):
                await store.settle(end)
            assert await store.settle(replace(end, token=second.token)) is MailState.DONE
            with pytest.raises(NotFound):
                await store.settle(end)

    run(scenario())


def test_new_mail_and_deferred_mail_share_a_short_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            for _ in range(10):
                await store.add(new(store, message()))
            later = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
            for each in await store.lease(START, 10, 60.0):
                end = Settlement(each.mail.queue_id, each.token, START, (later,), START)
                await store.settle(end)
            for _ in range(10):
                await store.add(new(store, message()))
            leases = await store.lease(START, 8, 60.0)
            assert [each.mail.attempts for each in leases] == [0] * 4 + [1] * 4

    run(scenario())


def test_delivered_recipients_stay_delivered_and_the_rest_is_recovered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await store.add(new(store, message(rcpts=(b"a@x", b"b@x", b"c@x"))))
            (lease,) = await store.lease(START, 9, 60.0)
            done = Result(1, RecipientEvent.DELIVER, "2.0.0", "250 ok", "mx", "lmtp:x")
            await store.note(lease.mail.queue_id, lease.token, START, (done,))
        async with opened(tmp_path / "00") as store:  # as after a crash: nothing was settled
            (again,) = await store.lease(START, 9, 60.0)
            assert [each.number for each in again.mail.open] == [0, 2]
            assert again.mail.recipients[1].state is RecipientState.DELIVERED
            assert again.mail.recipients[1].text == "250 ok"

    run(scenario())


def test_a_settlement_and_its_dsn_are_one_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await store.add(new(store, message()))
            (lease,) = await store.lease(START, 9, 60.0)
            bounced = Result(0, RecipientEvent.BOUNCE, "5.1.1", "no")
            follow = new(store, message(b"dsn\r\n"))
            end = Settlement(lease.mail.queue_id, lease.token, START, (bounced,), START)
            clash = replace(follow, queue_id=lease.mail.queue_id)
            with pytest.raises(QueueError):
                await store.settle(replace(end, follow=(clash,)))
            assert (await store.show(lease.mail.queue_id)).state is MailState.ACTIVE
            await store.settle(replace(end, follow=(follow,)))
            assert [each.queue_id for each in await store.list(Filter())] == [follow.queue_id]

    run(scenario())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE content SET body=x'00'", "content is not what was stored"),
        ("UPDATE content SET head=CAST(head AS TEXT)", "not what was stored"),
        ("DELETE FROM content", "content row is missing"),
        ("UPDATE content SET sum=sum+1", "content is not what was stored"),
    ],
)
def test_damaged_content_is_found(tmp_path: Path, damage: str, reason: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            item = new(store, message())
            await store.add(item)
        _sql(tmp_path, damage)
        async with opened(tmp_path / "00") as store:
            with pytest.raises(Damaged, match=reason):
                await store.content(item.queue_id)

    run(scenario())


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE mail SET sender=x'41' WHERE seq=1",
        "UPDATE mail SET facts='{' WHERE seq=1",
        "UPDATE mail SET facts=CAST(x'7bff' AS TEXT) WHERE seq=1",
        "UPDATE mail SET sum=0 WHERE seq=1",
        "UPDATE mail SET size='x' WHERE seq=1",
        "UPDATE recipient SET address=x'41' WHERE mail=1",
        "DELETE FROM recipient WHERE mail=1",
        "UPDATE recipient SET state=77 WHERE mail=1",
    ],
)
def test_a_damaged_row_is_set_aside_and_stops_nothing(tmp_path: Path, damage: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            bad, good = new(store, message()), new(store, message())
            await store.add(bad)
            await store.add(good)
        _sql(tmp_path, damage)
        async with opened(tmp_path / "00") as store:
            leases = await store.lease(START, 9, 60.0)
            assert [each.mail.queue_id for each in leases] == [good.queue_id]
            (found,) = await store.list(Filter(states=frozenset({MailState.CORRUPT})))
            assert found.queue_id == bad.queue_id
            assert found.note
            await store.delete(bad.queue_id)

    run(scenario())


@pytest.mark.parametrize("harm", ["gone", "short", "flipped", "symlink", "directory"])
def test_a_damaged_body_file_is_set_aside(tmp_path: Path, harm: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00", options=_SMALL) as store:
            item = new(store, message(b"x" * 200))
            await store.add(item)
        path = tmp_path / "00/bodies" / item.queue_id
        if harm == "short":
            os.truncate(path, 199)
        elif harm == "flipped":
            path.write_bytes(b"x" * 100 + b"y" + b"x" * 99)
        else:
            path.unlink()
        if harm == "symlink":
            path.symlink_to("/etc/passwd")
        elif harm == "directory":
            path.mkdir()
        async with opened(tmp_path / "00", options=_SMALL) as store:
            with pytest.raises(Damaged):
                await store.content(item.queue_id)
            if harm not in ("short", "flipped"):
                (found,) = await store.list(Filter(states=frozenset({MailState.CORRUPT})))
                assert found.note == "body file is missing"

    run(scenario())


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Not even one to the very octets that were stored."""

    async def scenario() -> None:
        async with opened(tmp_path / "00", options=_SMALL) as store:
            item = new(store, message(b"x" * 200))
            await store.add(item)
            path = tmp_path / "00/bodies" / item.queue_id
            path.rename(tmp_path / "moved")
            path.symlink_to(tmp_path / "moved")
            with pytest.raises(Damaged, match="symbolic links"):
                await store.content(item.queue_id)

    run(scenario())
    (tmp_path / "00/lock").unlink()
    (tmp_path / "00/lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        SqliteStore.open(tmp_path / "00")
    assert not (tmp_path / "elsewhere").exists()


def test_orphan_body_files_go_and_strange_things_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00"):
            pass
        bodies = tmp_path / "00/bodies"
        (bodies / "0123456789abcd").write_bytes(b"orphan")
        (bodies / "README").write_bytes(b"x")
        (bodies / "0123456789abcX").mkdir()
        os.mkfifo(bodies / "0123456789abcf")
        queue_clock = QueueClock(FakeClock())
        store = SqliteStore.open(tmp_path / "00", clock=queue_clock)
        found = await store.recover(queue_clock.now())
        await store.close()
        assert found.orphans == 1
        assert sorted(found.strange) == ["0123456789abcX", "0123456789abcf", "README"]
        assert not (bodies / "0123456789abcd").exists()

    run(scenario())


@pytest.mark.parametrize("jump", [365 * 86400.0, -365 * 86400.0, -START])
def test_a_wrong_clock_at_boot_neither_ages_nor_freezes_mail(tmp_path: Path, jump: float) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            item = new(store, message())
            await store.add(item)
            (lease,) = await store.lease(START, 9, 60.0)
            later = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
            await store.settle(Settlement(item.queue_id, lease.token, START, (later,), START + 300))
        clock.wall_time += jump
        queue_clock = QueueClock(clock)
        store = SqliteStore.open(tmp_path / "00", clock=queue_clock)
        await store.recover(queue_clock.now())
        now, shown = queue_clock.now(), await store.show(item.queue_id)
        assert 0 <= now - shown.born <= 86400
        assert (shown.born, shown.due, shown.arrived) == (START, START + 300, START), "no rewriting"
        assert store.new_id() > item.queue_id
        await store.add(new(store, message(), at=now))
        await store.close()
        seen_by_people(item.queue_id, now)

    def seen_by_people(queue_id: str, now: float) -> None:
        """Dates by the clock that people have, and times that they give, by that one too."""
        tool, wall = QueueTool(tmp_path), START + jump
        shown = tool.show(queue_id)
        assert wall - shown.born == pytest.approx(now - START)
        assert [each.queue_id for each in tool.list(Filter(born_before=wall - 3600))] == (
            [queue_id] if now - START > 3600 else []
        )
        tool.change([queue_id], tools.Requeue(wall, lambda those: ["smtp:x"] * len(those)))
        again = tool.show(queue_id)
        assert again.due == pytest.approx(wall)
        tool.close()

    run(scenario())


def test_the_wall_clock_may_jump_while_it_runs_too(tmp_path: Path) -> None:
    """Neither the run nor the next one ages a mail by that."""

    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            item = new(store, message())
            await store.add(item)
            clock.wall_time += 4e7
            clock.go(60)
            await store.add(new(store, message(), at=START + 60))
        clock.go(60)
        queue_clock = QueueClock(clock)
        store = SqliteStore.open(tmp_path / "00", clock=queue_clock)
        assert queue_clock.now() - (await store.show(item.queue_id)).born == pytest.approx(120)
        await store.close()

    run(scenario())


async def _lease(store: SqliteStore, now: float) -> list[str]:
    return [each.mail.queue_id for each in await store.lease(now, 9, 60.0)]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_mail_that_kills_its_worker_is_held_after_three_times(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The others go on; nobody is held for what somebody else did to the worker."""

    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            killer, other = new(store, message()), new(store, message())
            await store.add(other)
            await _lease(store, clock.wall())
            clock.go(5)
            await store.add(killer)
            await _lease(store, clock.wall())
        for _ in range(2):
            handover.mark_crash(tmp_path, os.getpid(), -number)
            async with opened(tmp_path / "00", clock) as store:
                clock.go(0.1)
                leased = await _lease(store, clock.wall())
                if number == signal.SIGSEGV:
                    assert leased == [killer.queue_id], "what was leased last is tried first, alone"
        handover.mark_crash(tmp_path, os.getpid(), -number)
        async with opened(tmp_path / "00", clock) as store:
            clock.go(60)
            shown = await store.show(killer.queue_id)
            if number == signal.SIGKILL:
                assert shown.state is MailState.DEFERRED
                return
            assert shown.state is MailState.HOLD
            assert shown.note == (
                "3 workers crashed while this mail was in delivery, the last by SIGSEGV"
            )
            assert await _lease(store, clock.wall()) == [other.queue_id]
            await store.release(killer.queue_id, clock.wall())
            assert await _lease(store, clock.wall()) == [killer.queue_id]

    run(scenario())


def test_a_crash_counts_for_those_it_met_and_until_an_attempt_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            item = new(store, message())
            await store.add(item)
        for _ in range(5):
            async with opened(tmp_path / "00", clock) as store:
                (lease,) = await store.lease(clock.wall(), 9, 60.0)
            handover.mark_crash(tmp_path, os.getpid() + 1, -signal.SIGSEGV)  # ran another shard
            handover.mark_crash(tmp_path, os.getpid(), 1)  # an exit
        for _ in range(5):
            async with opened(tmp_path / "00", clock) as store:
                (lease,) = await store.lease(clock.wall(), 9, 60.0)
                later = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
                now = clock.wall()
                await store.settle(Settlement(item.queue_id, lease.token, now, (later,), now))
                assert await _lease(store, now) == [item.queue_id]
            handover.mark_crash(tmp_path, os.getpid(), -signal.SIGABRT)
            clock.go(1)

    run(scenario())


def test_hold_while_active_takes_effect_at_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            item = new(store, message())
            await store.add(item)
            await store.lease(START, 9, 60.0)
            await store.hold(item.queue_id, "look at it")
            assert (await store.show(item.queue_id)).state is MailState.ACTIVE
        async with opened(tmp_path / "00") as store:
            shown = await store.show(item.queue_id)
            assert (shown.state, shown.note) == (MailState.HOLD, "look at it")
            await store.release(item.queue_id, START)
            assert len(await store.lease(START, 9, 60.0)) == 1

    run(scenario())


def test_a_tool_beside_the_running_store(tmp_path: Path) -> None:
    """Another process lists, flushes, holds and deletes; the store sees that it did."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store, opened(tmp_path / "01") as other:
            items = [new(each, message(b"x" * n)) for n, each in enumerate([store, other, store])]
            for each, item in zip([store, other, store], items, strict=True):
                await each.add(item)
            (lease, _) = await store.lease(START, 9, 60.0)
            later = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
            end = Settlement(lease.mail.queue_id, lease.token, START, (later,), START + 900)
            await store.settle(end)
            assert not await store.changed()
            assert not await store.changed()
            tool = QueueTool(tmp_path)
            assert [m.queue_id for m in tool.list()] == sorted(i.queue_id for i in items)
            assert len(tool.list(Filter(limit=2))) == 2
            assert tool.content(items[1].queue_id).body.size == 1
            assert tool.flush(START) == 1
            turn = await store.turn(START, 9, 60.0)
            assert (len(turn.leases), turn.changed, turn.due) == (1, True, None)
            turn = await store.turn(START, 9, 60.0)
            assert (turn.leases, turn.changed, turn.due) == ([], False, START + 60)
            assert not await store.changed()
            tool.hold(items[1].queue_id, "by hand")
            assert tool.counts()[MailState.HOLD] == 1
            tool.release(items[1].queue_id, START)
            for item in items:
                tool.delete(item.queue_id)
            with pytest.raises(NotFound):
                tool.show(items[0].queue_id)
            assert tool.list() == []
            tool.close()

    run(scenario())


def test_listing_goes_by_pages_and_states(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            held = [new(store, message(), hold="q") for _ in range(3)]
            items = [new(store, message()) for _ in range(4)]
            for item in held + items:
                await store.add(item)
            seen, after = [], ""
            while page := await store.list(Filter(after=after, limit=2)):
                seen += [each.queue_id for each in page]
                after = seen[-1]
            assert seen == sorted(each.queue_id for each in held + items)
            found = await store.list(Filter(states=frozenset({MailState.HOLD})))
            assert [each.note for each in found] == ["q"] * 3

    run(scenario())


def test_the_intake_answers_by_type(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = QueueClock(FakeClock())
        woken: list[int] = []
        async with opened(tmp_path / "00", options=SqliteOptions(queue_minfree=2**62)) as store:
            intake = Intake(store, clock, lambda: woken.append(1))
            with pytest.raises(StoreFull) as full:
                intake.check(10)
            assert (full.value.code, full.value.enhanced) == (452, "4.3.1")
            await intake.accept(message(), queue_id=intake.new_id(), decision=REASONS, hold="av")
            assert woken == [1]
            assert (await store.list(Filter()))[0].note == "av"
            with pytest.raises(NoRecipients):
                await intake.accept(message(rcpts=()), queue_id=intake.new_id())
            store.committer.fail("disk")
            with pytest.raises(QueueError) as failed:
                intake.check(10)
            assert (failed.value.code, failed.value.enhanced) == (451, "4.3.0")

    run(scenario())


def test_tables_that_do_not_answer_hold_no_client_up(tmp_path: Path) -> None:
    async def never(_recipients: object, _sender: bytes) -> str:
        await asyncio.Event().wait()
        return ""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            intake = Intake(store, QueueClock(FakeClock()), lookups=0.01)
            intake.site_of = never
            with pytest.raises(LookupFailed) as late:
                await intake.accept(message(), queue_id=intake.new_id())
            assert (late.value.code, late.value.enhanced) == (451, "4.3.0")
            assert await store.list(Filter()) == []

    run(scenario())


def _sql(root: Path, statement: str) -> None:
    db = sqlite3.connect(root / "00/queue.db", isolation_level=None)
    db.execute(statement)
    db.close()


_FULL_DISK = """
import asyncio, pathlib, subprocess, sys
tmpfs = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200", "x", sys.argv[1]]
subprocess.run(tmpfs, check=True)
from smtpgw.queue.committer import CommitterOptions
from tests.queue.support import *
from smtpgw.queue.store import StoreFull
from smtpgw.queue.states import MailState

async def go():
    root = pathlib.Path(sys.argv[1])
    small = CommitterOptions(checkpoint=400_000)
    options = SqliteOptions(
        inline_limit=50_000, queue_minfree=0, reserve=900_000, committer=small)
    async with opened(root / "00", options=options) as store:
        kept, full = [], 0
        for size in [40_000, 60_000] * 60:
            item = new(store, message(b"x" * size))
            try:
                await store.add(item)
                kept.append((item.queue_id, size))
            except StoreFull:
                full += 1
        assert full and kept and store.failed is None, (full, len(kept))
        for queue_id, size in kept:
            assert (await store.content(queue_id)).body.size == size
        names = {each.name for each in (root / "00/bodies").iterdir()}
        assert names == {i for i, size in kept if size == 60_000}
        for queue_id, _ in kept:
            await store.delete(queue_id)
        for _ in range(100):
            try:
                await store.add(new(store, message(b"y" * 60_000)))
                break
            except StoreFull:
                await asyncio.sleep(0.01)
        assert (await store.counts())[MailState.INCOMING] == 1
        print("kept", len(kept), "refused", full)

run(go())
"""


def test_a_full_disk_refuses_and_recovers_alone(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)


def test_a_body_is_never_written_through_a_link(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "00")
    victim = tmp_path / "victim"
    (shard.bodies / "0123456789abcd").symlink_to(victim)
    with pytest.raises(QueueError):
        shard.write_body("0123456789abcd", BytesBody(b"x"), 0)
    assert not victim.exists()
    with pytest.raises(ValueError, match="not a queue id"):
        shard.body_path("../../victim")


def _nameless(directory: Path, octets: bytes) -> FileBody:
    number = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    file = os.fdopen(number, "w+b")
    file.write(octets)
    file.flush()
    return FileBody(file, 0, len(octets))


def test_a_body_that_came_by_a_nameless_file_is_not_copied(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "00")
    octets = random.Random(1).randbytes(300_000)
    body = _nameless(tmp_path, octets)
    checksum = shard.write_body("0123456789abcd", body, 7)
    path = shard.body_path("0123456789abcd")
    assert path.stat().st_ino == os.fstat(body.file.fileno()).st_ino
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.read_bytes(), checksum) == (octets, zlib.crc32(octets, 7))
    # The next mail with this body gets a file of its own: either may go first.
    assert shard.write_body("0123456789abce", body, 7) == checksum
    shard.drop_body("0123456789abcd")
    assert shard.body_path("0123456789abce").read_bytes() == octets
    with pytest.raises(QueueError):
        shard.write_body("0123456789abce", _nameless(tmp_path, b"x"), 0)
    assert shard.body_path("0123456789abce").read_bytes() == octets


@pytest.mark.parametrize("nameless", [False, True])
def test_a_disk_that_is_full_at_the_sync_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    shard, octets = Shard(tmp_path / "00"), b"0123456789" * 30_000

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    body = _nameless(tmp_path, octets) if nameless else BytesBody(octets)
    with pytest.raises(StoreFull):
        shard.write_body("0123456789abcd", body, 0)
    assert list(shard.bodies.iterdir()) == []


@pytest.mark.parametrize("case", ["a part", "another file system", "an unlinked file"])
def test_a_body_whose_file_cannot_have_a_name_is_copied(tmp_path: Path, case: str) -> None:
    shard, octets = Shard(tmp_path / "00"), b"0123456789" * 30_000
    if case == "an unlinked file":
        file = tempfile.TemporaryFile(dir=tmp_path)  # noqa: SIM115 - the body has it
        file.write(octets)
        file.flush()
        body = FileBody(cast(BinaryIO, file), 0, len(octets))
    else:
        body = _nameless(Path("/dev/shm") if "system" in case else tmp_path, octets)
    if case == "a part":
        body = FileBody(body.file, 10, len(octets) - 20)
    assert shard.write_body("0123456789abcd", body, 0) == zlib.crc32(body_octets(body))
    assert shard.body_path("0123456789abcd").read_bytes() == body_octets(body)


def test_the_disk_is_asked_once_a_second_where_there_is_plenty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib = 1024 * 1024
    left, asked = [1000 * mib], []

    def free(_shard: Shard) -> tuple[int, int]:
        asked.append(left[0])
        return left[0], 1_000_000

    async def scenario() -> None:
        clock = FakeClock()
        options = SqliteOptions(queue_minfree=100 * mib)
        monkeypatch.setattr(Shard, "free", free)
        async with opened(tmp_path / "00", clock, options) as store:
            assert all(store.room(mib) for _ in range(10))
            assert len(asked) == 1
            clock.go(1.5)
            assert store.room(mib)
            assert len(asked) == 2
            assert store.room(700 * mib)  # what is announced counts
            assert not store.room(950 * mib)
            assert len(asked) == 3
            left[0] = 150 * mib  # no more than it has to be: every mail asks
            clock.go(1.5)
            assert all(store.room(mib) for _ in range(5))
            assert len(asked) == 8
            left[0] = 99 * mib
            assert not store.room(0)
            left[0] = 1000 * mib
            assert store.room(0)

    run(scenario())


def test_what_comes_in_one_turn_of_the_loop_is_one_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        batch = CommitterOptions(batch=4)
        options = SqliteOptions(queue_minfree=0, committer=batch)
        for name, those, expected in (("00", None, 1), ("01", options, 3)):
            async with opened(tmp_path / name, options=those) as store:
                before = store.committer.transactions
                await asyncio.gather(*(store.add(new(store, message())) for _ in range(12)))
                assert store.committer.transactions - before == expected
                assert sum((await store.counts()).values()) == 12

    run(scenario())
