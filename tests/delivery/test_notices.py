"""What the postmaster is told of our own trouble, and how little can go wrong with it."""

from __future__ import annotations

import asyncio
import email
from collections.abc import Sequence
from pathlib import Path

import pytest

from smtpgw.courier import CourierOptions
from smtpgw.delivery.outcome import Deferred, Destination, Job, Outcome
from smtpgw.dsn.report import DsnOptions, NoticeOptions
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter, StoreFull
from tests.delivery.peer import Peer, Road, listening, road
from tests.queue.support import message, run

ALL = frozenset({"bounce", "2bounce", "delay", "resource", "software"})


def _boxes(root: Path, address: str) -> list[bytes]:
    return [each.read_bytes() for each in sorted((root / "mail" / address).glob("new/*"))]


def _options(classes: frozenset[str] = ALL) -> CourierOptions:
    notices = NoticeOptions(notify_classes=classes, error_notice_recipient="root@gw.example")
    return CourierOptions(pause=0.01, dsn=DsnOptions("gw.example", notices=notices))


async def tried(way: Road) -> None:
    """Every mail that is left was tried, and waits for its next attempt."""
    async with asyncio.timeout(30):
        while True:
            left = await way.store.list(Filter())
            if all(each.state is MailState.DEFERRED and each.attempts for each in left):
                return
            await asyncio.sleep(0.01)


async def _broken(_destination: Destination, _job: Job) -> Sequence[Outcome]:
    raise RuntimeError("a bug")


async def _full(_destination: Destination, job: Job) -> Sequence[Outcome]:
    return [Deferred(each.number, "No space left on device", "", "4.3.1") for each in job.targets]


async def _remote(_destination: Destination, job: Job) -> Sequence[Outcome]:
    return [Deferred(each.number, "452 4.3.1 full", "mx", "4.3.1", True) for each in job.targets]


async def _unreachable(_destination: Destination, job: Job) -> Sequence[Outcome]:
    return [Deferred(each.number, "no", "", "4.3.0", unreachable=True) for each in job.targets]


@pytest.mark.parametrize(
    ("deliver", "classes", "subject"),
    [
        (_broken, ALL, "Postmaster Warning: Internal Error"),
        (_full, ALL, "Postmaster Warning: Out of Resources"),
        (_full, ALL - {"resource"}, None),
        (_remote, ALL, None),
        (_unreachable, ALL, None),
    ],
)
def test_our_own_trouble_is_told_once_an_hour(
    tmp_path: Path, deliver: object, classes: frozenset[str], subject: str | None
) -> None:
    async def scenario() -> None:
        home = {"gw.example": Destination("maildir", str(tmp_path / "mail"))}
        options = _options(classes)
        where = Destination("lmtp", "unix:/nowhere")
        # All are leased together: one that comes while its destination rests would not be tried.
        async with road(tmp_path, where, home, options=options, direct=False) as way:
            way.pool.deliver = deliver  # type: ignore[assignment] # a transport with a fault
            for count in (1, 1, 2):
                for _ in range(3):
                    await way.accept(message())
                await tried(way)
                found = _boxes(tmp_path, "root@gw.example")
                assert len(found) == (count if subject else 0)
                way.clock.go(2000)
        for each in found:
            letter = email.message_from_bytes(each)
            assert letter["Subject"] == subject
            assert letter["Return-Path"] == "<double-bounce@gw.example>"
            recipient = letter.get_payload(1).get_payload()[1]  # type: ignore[union-attr,index]
            assert recipient["Action"] == "delayed"
            assert recipient["Will-Retry-Until"]

    run(scenario())


def test_a_notice_that_cannot_be_queued_costs_the_sender_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        home = {"example.com": Destination("maildir", str(tmp_path / "mail"))}
        peer = Peer({"RCPT": b"550 5.1.1 no\r\n"})
        async with (
            listening(peer) as where,
            road(tmp_path, where, home, options=_options()) as way,
        ):
            prepare = way.intake.prepare

            def refuse(mail, **more):  # type: ignore[no-untyped-def] # stands in for prepare
                if mail.envelope.sender == b"double-bounce@gw.example":
                    raise StoreFull("test")
                return prepare(mail, **more)

            way.intake.prepare = refuse  # type: ignore[method-assign]
            await way.accept(message())
            await way.wait_empty()
        assert len(_boxes(tmp_path, "a@example.com")) == 1

    run(scenario())


def test_a_notice_that_bounces_ends_there(tmp_path: Path) -> None:
    """Each of the three is one mail: to the recipient, to the sender, to the postmaster."""

    async def scenario() -> None:
        where = Destination("error", "5.1.1 nobody")
        async with road(tmp_path, where, options=_options()) as way:
            await way.accept(message())
            await way.wait_empty()
            # the mail; its notification and its copy; the notice of the notification's failure
            assert way.seen == [("error", "failed")] * 4

    run(scenario())
