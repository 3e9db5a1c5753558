"""What any queue store promises (smtpgw/queue/store.py), as tests for any store.

A store's own test module says how it is opened::

    class TestSqlite(StoreContract):
        def open(self, directory, clock): return SqliteStore.open(...)

Only the Protocol is used here, and a directory that outlives a store: what was promised
before `close`, or before the process died, is there when the next one opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from milterd.core.mail import BytesBody
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.states import IllegalMove, MailState, RecipientEvent, RecipientState
from smtpgw.queue.store import (
    Filter,
    Lease,
    NewMail,
    NotFound,
    QueueError,
    Result,
    Settlement,
    StaleLease,
    Store,
    StoreLocked,
    Tried,
    Wish,
)
from tests.queue.support import REASONS, START, FakeClock, message, run

LATER = "4.2.0"


def _new(store: Store, *, site: str = "", hold: str | None = None, rcpts: int = 1) -> NewMail:
    mail = message(rcpts=tuple(b"u%d@example.net" % each for each in range(rcpts)))
    return NewMail(
        store.new_id(), mail, arrived=START, born=START, reasons=REASONS, hold=hold, site=site
    )


def _result(number: int, event: RecipientEvent) -> Result:
    return Result(number, event, LATER, f"said of {number}", "mx.example.net", "smtp:x")


def _end(lease: Lease, *results: Result, due: float = START + 300, **more: object) -> Settlement:
    end = Settlement(lease.mail.queue_id, lease.token, START, results, due)
    return replace(end, **more)  # type: ignore[arg-type] # names of fields


class StoreContract(ABC):
    """The promises.  `open` gives a store that has not been recovered yet."""

    @abstractmethod
    def open(self, directory: Path, clock: QueueClock) -> Store:
        """A store on `directory`, empty or left by an earlier one."""

    @contextlib.asynccontextmanager
    async def opened(self, directory: Path, clock: FakeClock | None = None) -> AsyncIterator[Store]:
        """A recovered store, closed at the end."""
        queue_clock = QueueClock(clock or FakeClock())
        store = self.open(directory, queue_clock)
        try:
            await store.recover(queue_clock.now())
            yield store
        finally:
            await store.close()

    async def one(self, store: Store, **options: object) -> Lease:
        """A new mail, leased."""
        await store.add(_new(store, **options))  # type: ignore[arg-type] # names of options
        (lease,) = await store.lease(START, 1, 60.0)
        return lease

    def test_what_add_took_is_there_for_the_next_store(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                item = _new(store, site="smtp:x", rcpts=3)
                await store.add(item)
            async with self.opened(tmp_path) as store:
                shown = await store.show(item.queue_id)
                assert (shown.state, shown.site) == (MailState.INCOMING, "smtp:x")
                assert (shown.sender, shown.session) == (b"a@example.com", item.mail.session)
                assert (shown.reasons, shown.arrived, shown.born) == (REASONS, START, START)
                assert [each.address for each in shown.recipients] == [
                    b"u0@example.net", b"u1@example.net", b"u2@example.net",
                ]  # fmt: skip
                content = await store.content(item.queue_id)
                assert b"".join(content.pieces()) == b"".join(item.mail.pieces())

        run(scenario())

    @pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
    def test_every_octet_of_any_size(self, tmp_path: Path, size: int) -> None:
        async def scenario() -> None:
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            async with self.opened(tmp_path) as store:
                item = _new(store)
                item = replace(item, mail=replace(item.mail, body=BytesBody(body)))
                await store.add(item)
            async with self.opened(tmp_path) as store:
                content = await store.content(item.queue_id)
                assert b"".join(content.body.pieces()) == body

        run(scenario())

    def test_ids_are_never_given_twice(self, tmp_path: Path) -> None:
        """Neither by one store, nor by the next, nor after the clock went back."""

        async def scenario() -> None:
            clock, seen = FakeClock(), set[str]()
            for back in (0.0, 3600.0, START):
                clock.wall_time = START - back
                async with self.opened(tmp_path, clock) as store:
                    ids = [store.new_id() for _ in range(500)]
                    await store.add(replace(_new(store), queue_id=ids[-1]))
                    assert not seen & set(ids)
                    assert len(set(ids)) == 500
                    seen |= set(ids)

        run(scenario())

    def test_one_id_is_queued_once(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                item = _new(store)
                await store.add(item)
                with pytest.raises(QueueError):
                    await store.add(item)
                assert (await store.counts())[MailState.INCOMING] == 1

        run(scenario())

    def test_a_mail_is_leased_to_one_at_a_time(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                for _ in range(20):
                    await store.add(_new(store))
                found = await asyncio.gather(*(store.lease(START, 3, 60.0) for _ in range(12)))
                ids = [lease.mail.queue_id for leases in found for lease in leases]
                assert len(ids) == len(set(ids)) == 20
                assert await store.lease(START + 59.9, 99, 60.0) == []
                assert len(await store.lease(START + 60, 99, 60.0)) == 20

        run(scenario())

    def test_an_old_lease_settles_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                first = await self.one(store)
                (second,) = await store.lease(START + 60, 1, 60.0)
                done = _result(0, RecipientEvent.DELIVER)
                with pytest.raises(StaleLease):
                    await store.settle(_end(first, done))
                with pytest.raises(StaleLease):
                    await store.note(first.mail.queue_id, first.token, START, [done])
                assert await store.settle(_end(second, done)) is MailState.DONE
                with pytest.raises(NotFound):
                    await store.settle(_end(second, done))

        run(scenario())

    def test_an_attempt_leaves_what_is_open(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            told = Tried(START, "smtp:x", 1, "deferred", LATER, "said of 1", "mx", 0.5)
            async with self.opened(tmp_path) as store:
                lease = await self.one(store, rcpts=3)
                results = (
                    _result(0, RecipientEvent.DELIVER),
                    _result(1, RecipientEvent.DEFER),
                    _result(2, RecipientEvent.BOUNCE),
                )
                end = _end(lease, *results, site="smtp:y", tried=(told,))
                assert await store.settle(end) is MailState.DEFERRED
            async with self.opened(tmp_path) as store:
                shown = await store.show(lease.mail.queue_id)
                assert [each.state for each in shown.recipients] == [
                    RecipientState.DELIVERED, RecipientState.DEFERRED, RecipientState.BOUNCED,
                ]  # fmt: skip
                assert [each.number for each in shown.open] == [1]
                assert (shown.open[0].text, shown.open[0].remote) == ("said of 1", "mx.example.net")
                assert (shown.due, shown.attempts, shown.site) == (START + 300, 1, "smtp:y")
                assert await store.history(lease.mail.queue_id) == [(1, told)]
                assert await store.lease(START + 299, 9, 60.0) == []
                assert len(await store.lease(START + 300, 9, 60.0)) == 1

        run(scenario())

    def test_a_noted_outcome_outlives_the_attempt(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store, rcpts=2)
                done = _result(0, RecipientEvent.DELIVER)
                await store.note(lease.mail.queue_id, lease.token, START, [done])
            async with self.opened(tmp_path) as store:
                (again,) = await store.lease(START, 9, 60.0)
                assert [each.number for each in again.mail.open] == [1]

        run(scenario())

    def test_an_outcome_and_what_follows_are_one(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store)
                bounced, dsn = _result(0, RecipientEvent.BOUNCE), _new(store)
                with pytest.raises(QueueError):  # its id is there already
                    await store.settle(
                        _end(lease, bounced, follow=(replace(dsn, queue_id=lease.mail.queue_id),))
                    )
                assert (await store.show(lease.mail.queue_id)).open
                await store.settle(_end(lease, bounced, follow=(dsn,)))
                (left,) = await store.list(Filter())
                assert left.queue_id == dsn.queue_id

        run(scenario())

    def test_a_wrong_settlement_changes_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store, rcpts=2)
                good, none = (_result(each, RecipientEvent.DELIVER) for each in (0, 7))
                with pytest.raises(IllegalMove):
                    await store.settle(_end(lease, good, none))
                assert len((await store.show(lease.mail.queue_id)).open) == 2

        run(scenario())

    def test_recovery_ends_leases(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store)
            clock = FakeClock()
            queue_clock = QueueClock(clock)
            store = self.open(tmp_path, queue_clock)
            assert (await store.recover(queue_clock.now())).leased == 1
            (again,) = await store.lease(START, 1, 60.0)
            assert again.mail.queue_id == lease.mail.queue_id
            await store.close()

        run(scenario())

    def test_one_process_has_it(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path):
                with pytest.raises(StoreLocked):
                    self.open(tmp_path, QueueClock(FakeClock()))

        run(scenario())

    def test_hold_release_flush_delete(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store)
                queue_id = lease.mail.queue_id
                await store.settle(_end(lease, _result(0, RecipientEvent.DEFER)))
                await store.hold(queue_id, "to look at")
                assert (await store.show(queue_id)).note == "to look at"
                assert await store.flush(START) == 0
                assert await store.lease(START + 9999, 9, 60.0) == []
                with pytest.raises(IllegalMove):
                    await store.flush(START, queue_id)
                await store.release(queue_id, START)
                (lease,) = await store.lease(START, 9, 60.0)
                await store.settle(_end(lease, _result(0, RecipientEvent.DEFER), due=START + 900))
                assert await store.flush(START, queue_id) == 1
                (lease,) = await store.lease(START, 9, 60.0)
                await store.delete(queue_id)
                for ask in (store.show, store.content, store.delete, store.history):
                    with pytest.raises(NotFound):
                        await ask(queue_id)
                with pytest.raises(NotFound):
                    await store.settle(_end(lease, _result(0, RecipientEvent.DELIVER)))

        run(scenario())

    def test_a_hold_waits_for_the_attempt(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store)
                await store.hold(lease.mail.queue_id, "wait")
                assert (await store.show(lease.mail.queue_id)).state is MailState.ACTIVE
                end = _end(lease, _result(0, RecipientEvent.DEFER))
                assert await store.settle(end) is MailState.HOLD

        run(scenario())

    def test_nobody_waits_for_all_of_another(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                for _ in range(200):
                    await store.add(_new(store, site="smtp:many"))
                mine = _new(store, site="smtp:few")
                await store.add(mine)
                leases = await store.lease(START + 1, 4, 60.0)
                assert mine.queue_id in {each.mail.queue_id for each in leases}
                wish = Wish(room={"smtp:many": 0})
                assert await store.lease(START + 1, 4, 60.0, wish) == []

        run(scenario())

    @pytest.mark.parametrize("size", [10, 400_000])
    def test_who_stops_waiting_undoes_nothing(self, tmp_path: Path, size: int) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                mail = replace(_new(store), mail=message(b"x" * size))
                adding = asyncio.ensure_future(store.add(mail))
                await asyncio.sleep(0)  # it has begun
                adding.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await adding
                async with asyncio.timeout(20):
                    while not await store.list(Filter()):  # noqa: ASYNC110 - it has no event
                        await asyncio.sleep(0.005)
                (lease,) = (await store.turn(START, 9, 60.0)).leases
                assert (await store.content(lease.mail.queue_id)).body.size == size

        run(scenario())

    def test_a_rest_outlives_the_store(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                await store.add(_new(store, site="smtp:x"))
                await store.rest("smtp:x", START + 300, "refused")
            async with self.opened(tmp_path) as store:
                (rest,) = await store.resting()
                assert (rest.site, rest.until, rest.note) == ("smtp:x", START + 300, "refused")
                assert await store.lease(START + 299, 9, 60.0) == []
                assert await store.next_due(START) == START + 300
                assert (await store.turn(START, 9, 60.0)).due == START + 300
                assert len(await store.lease(START + 300, 9, 60.0)) == 1

        run(scenario())

    def test_what_is_corrupt_is_listed_and_stops_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                bad, good = _new(store), _new(store)
                await store.add(bad)
                await store.add(good)
                await store.set_aside(bad.queue_id, "not what was stored")
                (listed,) = await store.list(Filter(frozenset({MailState.CORRUPT})))
                assert (listed.queue_id, listed.note) == (bad.queue_id, "not what was stored")
                (lease,) = await store.lease(START, 9, 60.0)
                assert lease.mail.queue_id == good.queue_id
                await store.delete(bad.queue_id)
                assert (await store.counts())[MailState.CORRUPT] == 0

        run(scenario())

    def test_an_attempt_can_end_in_the_hold_queue(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store)
                end = _end(lease, _result(0, RecipientEvent.DEFER), hold="to look at")
                assert await store.settle(end) is MailState.HOLD
                assert await store.lease(START + 9999, 9, 60.0) == []
                shown = await store.show(lease.mail.queue_id)
                assert (shown.note, shown.due) == ("to look at", None)
                await store.release(lease.mail.queue_id, START)
                (lease,) = await store.lease(START, 9, 60.0)
                end = _end(lease, _result(0, RecipientEvent.DELIVER), hold="nobody is left")
                assert await store.settle(end) is MailState.DONE

        run(scenario())

    @pytest.mark.parametrize("hold", [None, "looked odd"])
    def test_a_requeued_mail_is_as_if_it_had_just_come(
        self, tmp_path: Path, hold: str | None
    ) -> None:
        """Routed anew, due now, no attempt known; what was delivered stays so."""

        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store, site="smtp:old", rcpts=2)
                queue_id = lease.mail.queue_id
                done = _result(0, RecipientEvent.DELIVER)
                later = _result(1, RecipientEvent.DEFER)
                tried = (Tried(START, "smtp:old", 2, "deferred", LATER, "later"),)
                await store.settle(_end(lease, done, later, tried=tried, site="smtp:old"))
                if hold is not None:
                    await store.hold(queue_id, hold)
                await store.requeue(queue_id, START + 1, "smtp:new")
                shown = await store.show(queue_id)
                assert (shown.state, shown.site, shown.note) == (
                    MailState.INCOMING, "smtp:new", "",
                )  # fmt: skip
                assert (shown.attempts, shown.due, shown.born) == (0, START + 1, START)
                assert [each.text for each in shown.open] == [""]
                assert await store.history(queue_id) == []
                (lease,) = await store.lease(START + 1, 9, 60.0)
                assert [each.number for each in lease.mail.open] == [1]

        run(scenario())

    def test_a_doomed_mail_waits_for_nothing(self, tmp_path: Path) -> None:
        """Not for its next attempt, not for a site that rests, not for its release."""

        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                held = _new(store, hold="looked odd")
                await store.add(held)
                lease = await self.one(store, site="smtp:x")
                await store.settle(_end(lease, _result(0, RecipientEvent.DEFER), site="smtp:x"))
                await store.rest("smtp:x", START + 9000, "refused")
                ids = {held.queue_id, lease.mail.queue_id}
                for each in ids:
                    await store.doom(each, START, "nobody wants it")
                leases = await store.lease(START, 9, 60.0)
                assert {each.mail.queue_id for each in leases} == ids
                assert {each.mail.doomed for each in leases} == {"nobody wants it"}

        run(scenario())

    def test_a_bounce_asked_for_during_an_attempt_comes_after_it(self, tmp_path: Path) -> None:
        """And stays asked for until nobody is left, whatever that takes."""

        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                lease = await self.one(store, site="smtp:x")
                await store.doom(lease.mail.queue_id, START, "nobody wants it")
                await store.rest("smtp:x", START + 9000, "refused")
                for when in (START, START + 9001):
                    end = _end(lease, _result(0, RecipientEvent.DEFER), site="smtp:x")
                    assert await store.settle(end) is MailState.DEFERRED
                    (lease,) = await store.lease(when, 9, 60.0)
                    assert lease.mail.doomed == "nobody wants it"
            async with self.opened(tmp_path) as store:
                (lease,) = await store.lease(START + 9001, 9, 60.0)
                assert lease.mail.doomed == "nobody wants it"

        run(scenario())

    @pytest.mark.parametrize("size", [10, 300_000])
    def test_several_mails_are_queued_all_or_none(self, tmp_path: Path, size: int) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                body = BytesBody(b"x" * size)
                mails = [_new(store) for _ in range(4)]
                mails = [replace(each, mail=replace(each.mail, body=body)) for each in mails]
                first, second, third, fourth = mails
                await store.add(replace(first, handed="one"), second)
                with pytest.raises(QueueError):
                    await store.add(third, replace(fourth, queue_id=second.queue_id))
                with pytest.raises(QueueError):
                    await store.add(third, replace(fourth, handed="one"))
            async with self.opened(tmp_path) as store:
                there = [each.queue_id for each in await store.list(Filter())]
                assert there == sorted([first.queue_id, second.queue_id])
                for each in there:
                    assert (await store.content(each)).body.size == size
                leases = await store.lease(START, 9, 60.0)
                assert {each.mail.queue_id for each in leases} == set(there)

        run(scenario())

    def test_what_was_handed_in_by_a_file_is_queued_once(self, tmp_path: Path) -> None:
        """Known after a restart, whatever became of the mail, until it is to be forgotten."""

        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                first = replace(_new(store), handed="one")
                await store.add(first)
                again = replace(_new(store), handed="one")
                with pytest.raises(QueueError):
                    await store.add(again)
                with pytest.raises(NotFound):
                    await store.show(again.queue_id)
                await store.delete(first.queue_id)
            async with self.opened(tmp_path) as store:
                assert await store.handed(["one", "two"]) == {"one"}
                await store.forget(["one"])
                assert await store.handed(["one", "two"]) == set()
                await store.add(replace(again, queue_id=store.new_id()))

        run(scenario())

    def test_a_mail_can_be_queued_to_be_bounced(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                await store.add(replace(_new(store), doomed="not wanted"))
                (lease,) = await store.lease(START, 9, 60.0)
                assert lease.mail.doomed == "not wanted"

        run(scenario())

    def test_lists_go_by_pages(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with self.opened(tmp_path) as store:
                ids = []
                for number in range(9):
                    item = _new(store, hold="x" if number % 3 == 0 else None)
                    await store.add(item)
                    ids.append(item.queue_id)
                pages, after = [], ""
                while page := await store.list(Filter(after=after, limit=4)):
                    pages.append([each.queue_id for each in page])
                    after = pages[-1][-1]
                assert [len(each) for each in pages] == [4, 4, 1]
                assert [each for page in pages for each in page] == sorted(ids)
                held = await store.list(Filter(frozenset({MailState.HOLD}), limit=2))
                assert [each.queue_id for each in held] == sorted(ids)[0:4:3]
                counts = await store.counts()
                assert (counts[MailState.HOLD], counts[MailState.INCOMING]) == (3, 6)

        run(scenario())
