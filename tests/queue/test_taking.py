"""Mail that is leased from its first moment, and ends that are committed together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from milterd.core.finding import Found
from milterd.core.mail import Session
from smtpgw.queue import codec, taking
from smtpgw.queue.caught import Caught
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState, RecipientEvent
from smtpgw.queue.store import (
    Content,
    Filter,
    Lease,
    NewMail,
    NotFound,
    QueueError,
    Result,
    Settlement,
    StaleLease,
    StoreFailed,
)
from smtpgw.queue.taking import Made, Promise
from tests.queue.support import START, FakeClock, message, new, opened, run, until

UNTIL = START + 100


@dataclass
class Hand:
    """Takes everything."""

    promised: int = 0
    given: list[tuple[Lease, Content]] = field(default_factory=list)

    def take(self, _site: str, _size: int) -> float | None:
        self.promised += 1
        return UNTIL

    def give(self, made: Made) -> None:
        self.promised -= 1
        self.given.append(made())

    def miss(self, _site: str, _size: int) -> None:
        self.promised -= 1


async def _taken(store: SqliteStore, count: int = 1, **more: object) -> list[Lease]:
    assert store.room(0)
    hand = store.taker = Hand()
    for _ in range(count):
        assert not await store.add(replace(new(store, message()), **more))  # type: ignore[arg-type] # names of fields
    store.taker = None
    assert not hand.promised
    return [lease for lease, _ in hand.given]


def _whole(lease: Lease) -> Settlement:
    return Settlement(lease.mail.queue_id, lease.token, START, (), START, whole=True)


def test_each_mail_has_the_session_it_came_in_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else is there, and however many; of old sessions nothing is kept for them."""
    monkeypatch.setattr(codec, "_SESSIONS", 2)

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            names = [b"%d.example" % (number % 5) for number in range(20)]
            sessions = {each: Session(helo=each, macros={"i": each}) for each in names}
            for each in names:
                mail = replace(message(), session=sessions[each])
                await store.add(new(store, mail), new(store, mail))
                # One that is made for a mail is at another's place in memory, sooner or later.
                mail = replace(mail, session=Session(helo=b"other." + each))
                await store.add(new(store, mail))
            assert len(codec._known) <= 2
            found = [each.session for each in await store.list(Filter())]
            assert found == [
                session
                for each in names
                for session in (*[sessions[each]] * 2, Session(helo=b"other." + each))
            ]

    run(scenario())


def test_it_is_what_a_lease_from_the_database_would_be(tmp_path: Path) -> None:
    async def scenario() -> None:
        mail = message(
            b"\xff.\r\n",
            rcpts=(b"u@example.net", b"\xfc@x"),
            sender_args=(b"RET=FULL",),
            rcpt_args=(b"NOTIFY=NEVER",),
        )
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            assert store.room(0)
            hand = store.taker = Hand()
            item = replace(new(store, mail), site="lmtp:there")
            assert not await store.add(item)
            ((given, content),) = hand.given
            shown = await store.show(item.queue_id)
            assert shown == replace(given.mail, state=MailState.ACTIVE, due=UNTIL, attempts=1)
            assert await store.lease(START + 1, 10, 60) == []
            stored = await store.content(item.queue_id)
            assert b"".join(content.pieces()) == b"".join(stored.pieces())
            assert content.body is mail.body  # with what is known of it
            (lapsed,) = await store.lease(UNTIL + 1, 10, 60)
            assert (lapsed.token, lapsed.mail.attempts) == (given.token + 1, 1)
            assert replace(lapsed.mail, state=MailState.INCOMING, due=START, attempts=0) == (
                given.mail
            )

    run(scenario())


def test_a_client_does_not_wait_for_what_an_attempt_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made when the courier asks for it, which is after the answer."""

    class Later(Hand):
        def give(self, made: Made) -> None:
            self.promised -= 1
            waiting.append(made)

    waiting: list[Made] = []
    begun: list[str] = []
    monkeypatch.setattr(taking, "Lease", lambda *those: begun.append("lease") or Lease(*those))

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            assert store.room(0)
            store.taker = Later()
            item = new(store, message())
            await store.add(item)
            assert begun == []
            (made,) = waiting
            assert made()[0].mail.queue_id == item.queue_id
            assert begun == ["lease"]

    run(scenario())


@pytest.mark.parametrize("kind", ["held", "doomed", "filtered", "caught", "in a file", "nobody"])
def test_what_cannot_be_worked_on_at_once_waits(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            hand = Hand()
            if kind != "nobody":
                store.taker = hand
            body = b"x" * 300_000 if kind == "in a file" else b"hello\r\n"
            item: NewMail = new(store, message(body), hold="why" if kind == "held" else None)
            item = replace(
                item,
                doomed="why" if kind == "doomed" else "",
                filtered="smtp:[192.0.2.1]" if kind == "filtered" else "",
                caught=Caught((Found("scan", "virus"),)) if kind == "caught" else None,
            )
            assert await store.add(item)
            assert hand == Hand()
            assert (await store.show(item.queue_id)).state is not MailState.ACTIVE

    run(scenario())


def test_what_could_not_be_queued_is_missed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            assert store.room(0)
            hand = store.taker = Hand()
            item = new(store, message())
            await store.add(replace(item, handed="one"))
            again = replace(item, queue_id=store.new_id(), handed="one")
            with pytest.raises(QueueError):
                await store.add(again)
            assert hand.promised == 0
            assert len(hand.given) == 1

    run(scenario())


def test_who_was_at_work_at_a_crash_is_due_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            (lease,) = await _taken(store)
        async with opened(tmp_path / "00", clock) as store:
            (again,) = await store.lease(START + 1, 10, 60)
            assert again.mail.queue_id == lease.mail.queue_id
            with pytest.raises(StaleLease):
                await store.settle(_whole(lease))

    run(scenario())


def test_many_ends_are_one_transaction_and_each_has_its_own_result(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            leases = await _taken(store, 5)
            await store.delete(leases[1].mail.queue_id)
            stale = replace(leases[2], token=7)
            before = store.committer.transactions
            found = await store.settle_all([_whole(each) for each in (*leases[:2], stale)])
            assert store.committer.transactions == before + 1
            assert [type(each) for each in found] == [MailState, NotFound, StaleLease]
            left = {each.queue_id: each.state for each in await store.list(Filter())}
            assert left == {each.mail.queue_id: MailState.ACTIVE for each in leases[2:]}
            waits = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
            some = Settlement(leases[3].mail.queue_id, 1, START, (waits,), START + 60)
            ends = [some, _whole(leases[4])]
            assert await store.settle_all(ends) == [MailState.DEFERRED, MailState.DONE]

    run(scenario())


def test_nothing_is_left_of_a_mail_that_ends_whole(tmp_path: Path) -> None:
    """In a file or not, at its first attempt or a later one."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await _taken(store)
            await store.add(new(store, message(b"x" * 300_000)))
            leases = await store.lease(UNTIL + 1, 10, 60)
            assert [each.mail.attempts for each in leases] == [1, 0]
            assert len(list((tmp_path / "00/bodies").iterdir())) == 1
            done = await store.settle_all([_whole(each) for each in leases])
            assert done == [MailState.DONE] * 2
            assert not list((tmp_path / "00/bodies").iterdir())

            def rows(batch):  # type: ignore[no-untyped-def] # any tables
                names = ("mail", "recipient", "content", "attempt", "flow", "lane")
                count = "SELECT count(*) FROM {}"
                return [batch.db.execute(count.format(each)).fetchone()[0] for each in names]

            assert await store.ask(rows) == [0] * 6

    run(scenario())


def test_a_caller_that_gives_up_changes_nothing(tmp_path: Path) -> None:
    """What is committed is given, and so delivered, whoever waits for it."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            assert store.room(0)
            hand = store.taker = Hand()
            adding = asyncio.ensure_future(store.add(new(store, message())))
            await asyncio.sleep(0)
            adding.cancel()
            await asyncio.gather(adding, return_exceptions=True)
            assert adding.cancelled()
            await until(lambda: hand.given)
            assert hand.promised == 0

    run(scenario())


def test_a_store_that_has_failed_takes_the_promise_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            assert store.room(0)
            hand = store.taker = Hand()
            promise = Promise(hand, [new(store, message())])
            store.committer.fail("test")
            with pytest.raises(StoreFailed):
                await store.committer.do(lambda _: None, then=promise.end)
            assert hand == Hand()

    run(scenario())
