"""The road from queue to peer and back: outcomes, retries, DSNs, draining."""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import re
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path

import pytest

from smtpgw.courier import CourierOptions
from smtpgw.delivery.limits import LimitTable, ServiceLimits
from smtpgw.delivery.outcome import Destination, Job, Outcome
from smtpgw.delivery.windows import WindowOptions
from smtpgw.dsn.report import DsnOptions
from smtpgw.queue.manager import ManagerOptions
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.states import MailState, RecipientState
from smtpgw.queue.store import ANY, Filter, StoreFull, Turn, Wish
from smtpgw.queue.tools import QueueTool
from smtpgw.shares import AHEAD
from tests.delivery.peer import CLOSE, STALL, Peer, listening, road
from tests.queue.support import FakeClock, message, new, opened, run, until

_DAY = 86400.0


def _boxes(root: Path, address: str) -> list[bytes]:
    box = root / "mail" / address / "new"
    return [each.read_bytes() for each in sorted(box.iterdir())] if box.exists() else []


def _maildir(root: Path) -> Destination:
    return Destination("maildir", str(root / "mail"))


def _parsed(octets: bytes) -> EmailMessage:
    return email.message_from_bytes(octets, policy=email.policy.default)  # type: ignore[return-value]


def test_a_mail_reaches_a_maildir_to_the_octet(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with road(tmp_path, _maildir(tmp_path)) as way:
            args = (b"ORCPT=rfc822;A+2BB@example.com",)
            mail = message(
                b"line\r\n.dot\r\n\xff", rcpts=(b"U@Example.NET", b"../../x@y"), rcpt_args=args
            )
            queue_id = await way.accept(mail)
            await way.wait_empty()
            (got,) = _boxes(tmp_path, "U@example.net")
            top = b"Return-Path: <a@example.com>\nX-Original-To: A+B@example.com\n"
            top += b"Delivered-To: U@Example.NET\n"
            assert got == top + b"".join(mail.pieces()).replace(b"\r\n", b"\n") + b"\n"
            assert len(_boxes(tmp_path, "%2E.%2F..%2Fx@y")) == 1
            (file,) = (tmp_path / "mail/U@example.net/new").iterdir()
            assert f"Q{queue_id}R0" in file.name
            assert list((tmp_path / "mail/U@example.net/tmp").iterdir()) == []

    run(scenario())


def test_lmtp_gets_each_mail_once_and_the_queue_is_empty(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where) as way:
            await asyncio.gather(*(way.accept(message(b"%d\r\n" % n)) for n in range(50)))
            await way.wait_empty()
            assert len(peer.messages) == 50
            assert len(set(peer.messages)) == 50
            assert peer.connections <= 20
            assert way.seen == [("lmtp", "delivered")] * 50

    run(scenario())


def test_only_the_deferred_recipient_is_tried_again(tmp_path: Path) -> None:
    """J08 and J19, by a clock that is moved by hand."""

    async def scenario() -> None:
        peer = Peer({"DOT": [b"250 2.0.0 a\r\n452 4.2.2 full\r\n", b"250 2.0.0 b\r\n"]})
        async with listening(peer) as where, road(tmp_path, where) as way:
            queue_id = await way.accept(message(rcpts=(b"a@x", b"b@x")))
            await until(lambda: peer.messages and not way.courier.active)
            shown = await way.store.show(queue_id)
            assert shown.state is MailState.DEFERRED
            assert [each.state for each in shown.recipients] == [
                RecipientState.DELIVERED,
                RecipientState.DEFERRED,
            ]
            assert shown.recipients[1].text == "452 4.2.2 full"
            assert shown.due is not None
            assert 300 <= shown.due - way.clock.wall_time <= 360
            way.clock.go(299)
            await asyncio.sleep(0.1)
            assert len(peer.messages) == 1
            way.clock.go(70)
            await way.wait_empty()
            assert [each for each in peer.commands if b"RCPT" in each][2:] == [b"RCPT TO:<b@x>\r\n"]

    run(scenario())


def test_a_flush_by_another_process_is_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer({"DOT": [b"451 4.3.0 later\r\n", b"250 ok\r\n"]})
        async with listening(peer) as where, road(tmp_path, where) as way:
            await way.accept(message())
            await until(lambda: peer.messages and not way.courier.active)
            tool = QueueTool(tmp_path)
            tool.flush(way.clock.wall())
            tool.close()
            await way.wait_empty()

    run(scenario())


def test_a_jump_of_the_wall_clock_retries_and_bounces_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer({"DOT": b"451 4.3.0 later\r\n"})
        async with listening(peer) as where, road(tmp_path, where) as way:
            await way.accept(message())
            await until(lambda: peer.messages and not way.courier.active)
            for jump in (400 * _DAY, -800 * _DAY):
                way.clock.wall_time += jump
                await asyncio.sleep(0.1)
            assert len(peer.messages) == 1
            assert (await way.store.counts())[MailState.DEFERRED] == 1

    run(scenario())


def test_life_ends_with_a_dsn_that_says_why(tmp_path: Path) -> None:
    """J15: deferred for five days, then one DSN 4.4.7 with the peer's last words."""

    async def scenario() -> None:
        peer = Peer({"DOT": b"452 4.2.2 <b@x> mailbox full \xff\r\n"})
        exceptions = {"example.com": _maildir(tmp_path)}
        schedule = ScheduleOptions(minimal_backoff_time=10_000, maximal_backoff_time=40_000)
        async with (
            listening(peer) as where,
            road(tmp_path, where, exceptions, schedule=schedule) as way,
        ):
            queue_id = await way.accept(
                message(
                    sender_args=(b"ENVID=my+20id", b"RET=HDRS"),
                    rcpts=(b"b@x",),
                    rcpt_args=(b"ORCPT=rfc822;B+2Bx@Y",),
                )
            )
            began = way.clock.wall_time
            await way.settled()
            while not _boxes(tmp_path, "a@example.com"):
                way.clock.go(10_000)
                await way.settled()
            await way.wait_empty()
            assert 5 * _DAY <= way.clock.wall_time - began <= 5 * _DAY + 20_000
            (got,) = _boxes(tmp_path, "a@example.com")
            assert 11 <= len(peer.messages) <= 20
        _check_failure(_parsed(got), queue_id)

    run(scenario(), 60)


def _check_failure(report: EmailMessage, queue_id: str) -> None:
    assert report["Return-Path"] == "<>"
    assert report["From"] == "Mail Delivery System <MAILER-DAEMON@gw.example>"
    assert report["To"] == "a@example.com" or report["To"] == "<a@example.com>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["Message-ID"].endswith("@gw.example>")
    assert report["Date"]
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    human, status, original = report.iter_parts()
    assert human.get_content_type() == "text/plain"
    assert "mailbox full" in human.get_content()
    assert queue_id in human.get_content()
    whole, recipient = status.get_payload()  # type: ignore[misc] # two blocks of fields
    assert whole["Reporting-MTA"] == "dns; gw.example"
    assert whole["Original-Envelope-Id"] == "my id"
    assert whole["X-Gatepost-Queue-ID"] == queue_id
    assert whole["Arrival-Date"] == "Tue, 14 Nov 2023 22:13:20 -0000"
    assert recipient["Original-Recipient"] == "rfc822;B+x@Y"
    assert recipient["Final-Recipient"] == "rfc822; b@x"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "4.4.7"
    assert recipient["Remote-MTA"] == "dns; peer.example"
    words = re.sub(r"\s+", " ", recipient["Diagnostic-Code"])
    assert words == r"smtp; 452 4.2.2 <b@x> mailbox full \xff"
    assert recipient["Last-Attempt-Date"]
    assert original.get_content_type() == "text/rfc822-headers"
    assert b"Subject: t\xe9st\n\tfolded" in original.get_payload(decode=True)  # type: ignore[operator]


def test_a_delay_is_told_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        schedule = ScheduleOptions(delay_warning_time=3600)
        where = Destination("retry", "4.7.1 come back")
        exceptions = {"example.com": _maildir(tmp_path)}
        async with road(tmp_path, where, exceptions, schedule=schedule) as way:
            await way.accept(message())
            for _ in range(12):
                await way.settled()
                way.clock.go(4000)
            await way.settled()
            (got,) = _boxes(tmp_path, "a@example.com")
        report = _parsed(got)
        recipient = list(report.iter_parts())[1].get_payload()[1]  # type: ignore[index]
        assert (recipient["Action"], recipient["Status"]) == ("delayed", "4.7.1")
        assert recipient["Will-Retry-Until"] == "Sun, 19 Nov 2023 22:13:20 -0000"

    run(scenario())


@pytest.mark.parametrize(
    ("notify", "transport", "action"),
    [
        (b"NOTIFY=NEVER", "error", None),
        (b"NOTIFY=SUCCESS", "error", None),
        (b"NOTIFY=SUCCESS,FAILURE", "error", "failed"),
        (b"X=1", "error", "failed"),
        (b"notify=failure", "error", "failed"),
        (b"NOTIFY=SUCCESS", "discard", "delivered"),
        (b"NOTIFY=FAILURE", "discard", None),
        (b"X=1", "discard", None),
        (b"NOTIFY=SUCCESS", "lmtp", "relayed"),
    ],
)
def test_notify_decides(tmp_path: Path, notify: bytes, transport: str, action: str | None) -> None:
    async def scenario() -> None:
        peer = Peer()
        exceptions = {"example.com": _maildir(tmp_path)}
        async with listening(peer) as lmtp:
            where = lmtp if transport == "lmtp" else Destination(transport, "")
            async with road(tmp_path, where, exceptions) as way:
                await way.accept(message(rcpt_args=(notify,)))
                await way.wait_empty()
        got = _boxes(tmp_path, "a@example.com")
        actions = [
            list(_parsed(each).iter_parts())[1].get_payload()[1]["Action"]  # type: ignore[index]
            for each in got
        ]
        assert actions == ([action] if action else [])

    run(scenario())


def test_the_null_sender_never_gets_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with road(tmp_path, Destination("error", "5.1.1 nobody")) as way:
            await way.accept(message(sender=b""))
            await way.accept(message(sender=b"forged@example.org"))  # its DSN fails as well
            await way.wait_empty()
            assert way.seen == [("error", "failed")] * 3

    run(scenario())


def test_a_dsn_that_cannot_be_queued_keeps_the_mail(tmp_path: Path) -> None:
    async def scenario() -> None:
        exceptions = {"example.net": Destination("error", "no"), "x": _maildir(tmp_path)}
        async with road(tmp_path, _maildir(tmp_path), exceptions) as way:
            prepare = way.intake.prepare
            full = True

            def refuse(mail, **more):  # type: ignore[no-untyped-def] # stands in for prepare
                if full and not mail.envelope.sender:
                    raise StoreFull("test")
                return prepare(mail, **more)

            way.intake.prepare = refuse  # type: ignore[method-assign]
            queue_id = await way.accept(message(rcpts=(b"u@example.net", b"ok@x")))
            await until(lambda: len(way.seen) == 2 and not way.courier.active)
            shown = await way.store.show(queue_id)
            assert shown.state is MailState.DEFERRED
            assert [each.number for each in shown.open] == [0]
            assert len(_boxes(tmp_path, "ok@x")) == 1
            full = False
            way.clock.go(400)
            await way.wait_empty()
            assert len(_boxes(tmp_path, "a@example.com")) == 1

    run(scenario())


def test_a_full_disk_at_the_end_of_an_attempt_delivers_nothing_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where) as way:
            settle, tries = way.store.settle, 0

            async def refuse(settlement):  # type: ignore[no-untyped-def] # stands in for settle
                nonlocal tries
                tries += 1
                if tries < 9:
                    raise StoreFull("test")
                return await settle(settlement)

            async def refuse_all(_ends, **_):  # type: ignore[no-untyped-def] # stands in for settle_all
                raise StoreFull("test")

            way.store.settle = refuse  # type: ignore[method-assign]
            way.store.settle_all = refuse_all  # type: ignore[method-assign]
            await way.accept(message())
            await way.wait_empty()
            assert tries == 9
            assert len(peer.messages) == 1

    run(scenario())


def test_a_full_disk_at_a_reload_delivers_nothing_twice(tmp_path: Path) -> None:
    """The outcome is known: it is committed when there is room, though others deliver by now."""

    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where) as way:
            settle, tries, room = way.store.settle, 0, asyncio.Event()

            async def refuse(settlement):  # type: ignore[no-untyped-def] # stands in for settle
                nonlocal tries
                tries += 1
                if not room.is_set():
                    raise StoreFull("test")
                return await settle(settlement)

            async def refuse_all(_ends, **_):  # type: ignore[no-untyped-def] # stands in for settle_all
                raise StoreFull("test")

            way.store.settle = refuse  # type: ignore[method-assign]
            way.store.settle_all = refuse_all  # type: ignore[method-assign]
            await way.accept(message())
            await until(lambda: tries)
            draining = asyncio.ensure_future(way.courier.drain(0.1))
            before = tries
            await until(lambda: tries > before + 5)
            assert not draining.done()
            room.set()
            await draining
            assert await way.empty()
            room.clear()
            way.courier.hurry()
        assert len(peer.messages) == 1

    run(scenario())


def test_slow_tables_make_no_lease_longer(tmp_path: Path) -> None:
    """When it ends another attempt may begin: no two are to be at work on one mail."""

    async def scenario() -> None:
        manager = ManagerOptions(lease_time=20.0, poll=0.02)
        asked, ends = list[float](), list[float | None]()

        async def slow(_address: bytes, _sender: bytes) -> Destination:
            asked.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.2)
            return where

        async with (
            listening(Peer()) as where,
            road(tmp_path, where, route=slow, manager_options=manager, direct=False) as way,
        ):
            deliver = way.courier._attempts._deliver

            async def noted(there: Destination, job: Job, until: float | None) -> Sequence[Outcome]:
                ends.append(until)
                return await deliver(there, job, until)

            way.courier._attempts._deliver = noted  # type: ignore[method-assign]
            await way.accept(message())
            await way.wait_empty()
        assert ends[0] is not None
        assert ends[0] <= asked[0] + 20.0

    run(scenario())


def test_corrupt_mail_is_set_aside_and_stops_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            bad = new(store, message(b"x" * 300_000))
            await store.add(bad)
        path = tmp_path / "00/bodies" / bad.queue_id
        os.truncate(path, 299_999)
        async with road(tmp_path, _maildir(tmp_path), clock=clock) as way:
            await way.accept(message())
            await until(lambda: len(_boxes(tmp_path, "u@example.net")) == 1)
            await until(lambda: not way.courier.active)
            (found,) = await way.store.list(Filter())
            assert (found.queue_id, found.state) == (bad.queue_id, MailState.CORRUPT)
            assert found.note == "body file holds 299999 octets, 300000 were stored"

    run(scenario())


def test_a_recipient_whose_tables_do_not_answer_waits_and_no_other_does(tmp_path: Path) -> None:
    """The lease of a mail must not run out while tables think."""

    async def route(address: bytes, _sender: bytes) -> Destination:
        if address.startswith(b"slow"):
            await asyncio.Event().wait()
        return _maildir(tmp_path)

    async def scenario() -> None:
        options = CourierOptions(routing=0.05, dsn=DsnOptions("gw.example"))
        async with road(tmp_path, _maildir(tmp_path), options=options, route=route) as way:
            both = (b"u@example.net", b"slow@example.net")
            queue_id = await way.accept(message(rcpts=both))
            async with asyncio.timeout(10):
                while (await way.store.show(queue_id)).state is not MailState.DEFERRED:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.005)
            assert len(_boxes(tmp_path, "u@example.net")) == 1
            [left] = (await way.store.show(queue_id)).open
            assert left.address == b"slow@example.net"
            assert (left.enhanced, "took more than" in left.text) == ("4.3.0", True)

    run(scenario())


def test_one_dead_destination_hurts_nobody_else(tmp_path: Path) -> None:
    """Mail for a peer that stalls fills its own share of connections, no more."""

    async def scenario() -> None:
        dead = Peer({"CONNECT": STALL})
        options = CourierOptions(LimitTable(ServiceLimits(WindowOptions(limit=2))))
        async with listening(dead) as nowhere:
            exceptions = {"dead.example": nowhere}
            async with road(tmp_path, _maildir(tmp_path), exceptions, options=options) as way:
                for _ in range(30):
                    await way.accept(message(rcpts=(b"u@dead.example",)))
                await way.accept(message())
                await until(lambda: len(_boxes(tmp_path, "u@example.net")) == 1)
                await until(lambda: way.courier.active == 2 * AHEAD)
                assert dead.connections <= 2
                assert await way.courier.drain(0) == 2 * AHEAD

    run(scenario())


def test_a_destination_that_refuses_is_not_asked_for_each_mail(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer({"CONNECT": b"421 4.3.2 busy\r\n" + CLOSE})
        windows = WindowOptions(limit=1, failed_cohort_limit=3)
        options = CourierOptions(LimitTable(ServiceLimits(windows)))
        async with listening(peer) as where, road(tmp_path, where, options=options) as way:
            for _ in range(20):
                await way.accept(message())
            await until(lambda: peer.connections == 3)
            await until(lambda: not way.courier.active)
            counts = await way.store.counts()
            # What was at hand is deferred, what was not waits untouched, with a reason to see.
            assert counts[MailState.DEFERRED] + counts[MailState.INCOMING] == 20
            assert 0 < counts[MailState.DEFERRED] < 20
            (rest,) = await way.store.resting()
            assert (rest.site, rest.note) == (str(where), "greeting refused: 421 4.3.2 busy")
            for each in await way.store.list(Filter(frozenset({MailState.DEFERRED}))):
                assert each.recipients[0].text == rest.note
            assert peer.connections == 3
            peer.answers["CONNECT"] = b"220 here again\r\n"
            tool = QueueTool(tmp_path)
            assert tool.flush(way.clock.wall()) == counts[MailState.DEFERRED]
            tool.close()
            await way.wait_empty()

    run(scenario())


def test_a_lease_bounds_an_attempt(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer({"DOT": STALL})
        manager = ManagerOptions(lease_time=0.2, poll=0.02)
        async with listening(peer) as where, road(tmp_path, where, manager_options=manager) as way:
            queue_id = await way.accept(message())
            await until(lambda: way.seen)
            await until(lambda: not way.courier.active)
            shown = await way.store.show(queue_id)
            assert shown.recipients[0].text == "delivery took longer than its lease"

    run(scenario())


def test_draining_finishes_what_is_under_way_and_keeps_the_rest(tmp_path: Path) -> None:
    async def scenario() -> None:
        slow, stuck = Peer(), Peer({"DOT": STALL})
        async with listening(slow) as here, listening(stuck) as there:
            exceptions = {"stuck.example": there}
            async with road(tmp_path, here, exceptions) as way:
                await way.accept(message(rcpts=(b"u@x", b"v@stuck.example")))
                await until(lambda: slow.messages and stuck.messages)
                assert await way.courier.drain(0.2) == 1
            async with opened(tmp_path / "00") as store:
                (left,) = await store.list(Filter())
                assert [each.address for each in left.open] == [b"v@stuck.example"]

    run(scenario())


def test_draining_waits_for_what_is_being_leased_just_now(tmp_path: Path) -> None:
    """Or it would be delivered, and its outcome lost with the store that was closed."""

    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where) as way:
            turn, leased, go_on = way.store.turn, asyncio.Event(), asyncio.Event()

            async def slow(now: float, limit: int, duration: float, wish: Wish = ANY) -> Turn:
                found = await turn(now, limit, duration, wish)
                if found.leases:
                    leased.set()
                    await go_on.wait()
                return found

            way.store.turn = slow  # type: ignore[method-assign] # a slow disk, at the right moment
            await way.accept(message())
            await leased.wait()
            draining = asyncio.ensure_future(way.courier.drain(5))
            await asyncio.sleep(0)
            go_on.set()
            assert await draining == 0
            assert await way.empty()
            assert len(peer.messages) == 1

    run(scenario())


def test_a_redelivery_after_a_crash_replaces_the_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with opened(tmp_path / "00", clock) as store:
            await store.add(new(store, message()))
        for _ in range(2):  # the second time as if the outcome had been lost
            saved = (tmp_path / "00/queue.db").read_bytes()
            async with road(tmp_path, _maildir(tmp_path), clock=clock) as way:
                await way.wait_empty()
            (tmp_path / "00/queue.db").write_bytes(saved)
        assert len(_boxes(tmp_path, "u@example.net")) == 1

    run(scenario())


def test_lost_after_the_dot_is_sent_again(tmp_path: Path) -> None:
    """J09 and F18: a second copy may come, none may not."""

    async def scenario() -> None:
        peer = Peer({"DOT": [CLOSE, b"250 ok\r\n"]})
        async with listening(peer) as where, road(tmp_path, where) as way:
            await way.accept(message())
            await until(lambda: peer.messages and not way.courier.active)
            way.clock.go(400)
            await way.wait_empty()
            assert len(peer.messages) == 2
            assert peer.messages[0] == peer.messages[1]

    run(scenario())


def test_a_dsn_keeps_to_its_size(tmp_path: Path) -> None:
    """J06: a large original comes back as its header, hostile words as text."""

    async def scenario() -> None:
        text = b"550 5.7.1 <b>no</b> =_ \xff\xfe\t\x1b[31m " + b"long " * 350 + b"\r\n"
        peer = Peer({"DOT": text})
        exceptions = {"example.com": _maildir(tmp_path)}
        options = CourierOptions(dsn=DsnOptions("gw.example", 50_000))
        async with (
            listening(peer) as where,
            road(tmp_path, where, exceptions, options=options) as way,
        ):
            await way.accept(message(b"x\r\n" * 40_000))
            head = b"X: y\r\n" * 20_000 + b"\r\n"
            await way.accept(message(b"small\r\n", head=b"Subject: s\r\n\r\n"))
            await way.accept(message(b"small\r\n", head=head))
            await way.wait_empty()
        got = _boxes(tmp_path, "a@example.com")
        assert len(got) == 3
        kinds = []
        for each in got:
            assert len(each) <= 50_500
            assert b"\x1b" not in each
            human, _, original = _parsed(each).iter_parts()
            assert "<b>no</b>" in human.get_content()
            kinds.append(original.get_content_type())
        assert sorted(kinds) == ["message/rfc822", "text/rfc822-headers", "text/rfc822-headers"]

    run(scenario())
