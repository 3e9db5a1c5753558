"""A release that goes wrong: what milters that fail would refuse is not let go, and a release that
cannot be worked on waits and harms nobody else."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from milterd.base import logs
from milterd.core.finding import Found
from milterd.core.mail import Mail
from smtpgw.chain.health import Health
from smtpgw.chain.options import MilterOptions
from smtpgw.chain.results import ChainResult
from smtpgw.intake import Intake
from smtpgw.quarantine.again import Again, Way
from smtpgw.quarantine.keeper import Keeper, KeeperOptions
from smtpgw.queue import quarantine
from smtpgw.queue.caught import Caught
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter, NewMail, QueuedMail, StoreFull
from tests.queue.quarantine_victim import ENTRIES, OPTIONS, fill
from tests.queue.support import FakeClock, message, run, until


@dataclass
class Broken:
    """Asks nobody."""

    asked: list[str] = field(default_factory=list)

    async def ask(self, _mail: object, queue_id: str, **_rest: Any) -> None:
        self.asked.append(queue_id)
        raise ValueError("a header that nobody thought of")


def _states(directory: Path, again: object) -> tuple[Collection[MailState], list[str]]:
    """Where mails stand after a look, and the notes of those that are to be released."""

    async def look() -> tuple[Collection[MailState], list[str]]:
        await fill(directory)
        clock = QueueClock(SystemClock())
        store = SqliteStore.open(directory, OPTIONS, clock=clock)
        await store.recover(clock.now())
        keeper = Keeper(
            store,
            Intake(store, clock),
            clock,
            cast(Again, again),
            KeeperOptions(60.0),
            logs.get("quarantine"),
            lambda _what, _count: None,
        )
        await keeper.look()
        mails = await store.list(Filter(states=frozenset(MailState) - {MailState.DONE}))
        await store.close()
        waiting = [each for each in mails if each.state is MailState.RELEASING]
        assert all(each.attempts == 1 for each in waiting)
        return [each.state for each in mails], [each.note for each in waiting]

    return run(look())


@pytest.mark.parametrize("action", ["reject", "tempfail", "shutdown"])
def test_a_milter_that_fails_lets_nothing_go(tmp_path: Path, action: str) -> None:
    """It has found nothing, and has not looked either."""
    down = MilterOptions("m", f"unix:{tmp_path}/nobody", connect_timeout=1, default_action=action)
    log = logs.get("quarantine")
    again = Again({}, Way((down,)), Health(time.monotonic), log, time.monotonic)
    states, notes = _states(tmp_path / "queue", again)
    assert MailState.INCOMING not in states
    assert len(notes) == ENTRIES
    assert all(each.startswith("release waits: ") for each in notes)


def test_a_fault_of_ours_puts_off_that_release_alone(tmp_path: Path) -> None:
    again = Broken()
    states, notes = _states(tmp_path / "queue", again)
    assert len(again.asked) == ENTRIES
    assert notes == ["release waits: internal error"] * ENTRIES
    assert MailState.QUARANTINE in states


@dataclass
class OneSlow:
    """Fails for the first mail, and takes its time for the others."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    waiting: int = 0

    async def ask(self, mail: Mail, _queue_id: str, **_rest: Any) -> ChainResult:
        self.asked += 1
        if self.asked == 1:
            raise ValueError("a header that nobody thought of")
        self.waiting += 1
        await self.go_on.wait()
        self.waiting -= 1
        return ChainResult(mail)


def test_no_release_is_left_alone_when_another_fails(tmp_path: Path) -> None:
    """A disk with no room to put one off: the next look must not find the others still at work."""

    async def scenario() -> None:
        await fill(tmp_path)
        clock = QueueClock(SystemClock())
        store = SqliteStore.open(tmp_path, OPTIONS, clock=clock)
        await store.recover(clock.now())
        slow, log = OneSlow(), logs.get("quarantine")
        intake, options = Intake(store, clock), KeeperOptions(60.0)
        keeper = Keeper(
            store, intake, clock, cast(Again, slow), options, log, lambda _what, _count: None
        )

        async def full(_queued: object, _why: str) -> None:
            raise StoreFull("no room")

        keeper._later = full  # type: ignore[method-assign]
        looking = asyncio.ensure_future(keeper.look())
        await until(lambda: slow.waiting == ENTRIES - 1)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not looking.done()
        slow.go_on.set()
        with pytest.raises(StoreFull):
            await looking
        assert slow.asked == ENTRIES
        assert not slow.waiting
        await store.close()

    run(scenario())


def test_what_is_being_committed_when_it_is_cancelled_is_told_of(tmp_path: Path) -> None:
    """A reload: the next keeper would find nothing, and say that somebody had deleted it."""

    async def scenario() -> None:
        await fill(tmp_path)
        clock = QueueClock(SystemClock())
        store = SqliteStore.open(tmp_path, OPTIONS, clock=clock)
        await store.recover(clock.now())
        told, go_on, begun = list[str](), asyncio.Event(), 0
        intake, options, log = Intake(store, clock), KeeperOptions(60.0), logs.get("quarantine")
        again = cast(Again, Scanner([()]))
        keeper = Keeper(
            store, intake, clock, again, options, log, lambda what, n: told.extend([what] * n)
        )
        end = keeper._end

        async def slow(queued: QueuedMail, mails: Sequence[NewMail]) -> None:
            nonlocal begun
            begun += 1
            await go_on.wait()
            await end(queued, mails)

        keeper._end = slow  # type: ignore[method-assign]
        looking = asyncio.ensure_future(keeper.look())
        await until(lambda: begun == ENTRIES)
        looking.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert told.count("released") == ENTRIES
        await store.close()

    run(scenario())


NOT_YET = Found.of("scan", "clamav/?not-scanned: held")
VIRUS = Found.of("scan", "clamav/Eicar: infected")


@dataclass
class Scanner:
    """Says of each mail what it is told to, the last for all that follow."""

    words: list[tuple[Found, ...]]
    passing: list[tuple[Found, ...]] = field(default_factory=list)

    async def ask(
        self, mail: Mail, _queue_id: str, *, passing: tuple[Found, ...], **_rest: Any
    ) -> ChainResult:
        self.passing.append(passing)
        found = self.words.pop(0) if len(self.words) > 1 else self.words[0]
        return ChainResult(mail, found=tuple(each for each in found if each not in passing))


def _awaited(
    directory: Path, scanner: Scanner, looks: int, *, release: bool = False, late: bool = False
) -> list[tuple[MailState, str, tuple[Found, ...]]]:
    """Where two mails stand that awaited a scanner, after some looks a moment apart; with their
    notes, and what they are released from."""

    async def scenario() -> list[tuple[MailState, str, tuple[Found, ...]]]:
        now = FakeClock()
        clock = QueueClock(now)
        store = SqliteStore.open(directory, OPTIONS, clock=clock)
        await store.recover(clock.now())
        intake = Intake(store, clock)
        for _ in range(2):
            queue_id = intake.new_id()
            await intake.keep(message(), Caught((NOT_YET,)), queue_id=queue_id)
            if release:
                change = functools.partial(quarantine.let_go, queue_id=queue_id, now=clock.now())
                await store.change(lambda batch, _, do=change: do(batch))
        if late:  # the second is not due for long
            change = functools.partial(
                quarantine.put_off, queue_id=queue_id, due=clock.now() + 200.0, note="later"
            )
            await store.change(lambda batch, _, do=change: do(batch))
        log = logs.get("quarantine")
        options = KeeperOptions(60.0)
        again = cast(Again, scanner)
        keeper = Keeper(store, intake, clock, again, options, log, lambda _what, _count: None)
        for _ in range(looks):
            await keeper.look()
            now.go(1.0)
        mails = await store.list(Filter(states=frozenset(MailState) - {MailState.DONE}))
        await store.close()
        return [
            (each.state, each.note, each.caught.passing if each.caught else ()) for each in mails
        ]

    return run(scenario())


def test_a_mail_awaits_its_scanner_and_goes_on_once_that_has_answered(tmp_path: Path) -> None:
    waits = (MailState.AWAITING, f"awaits a milter: {NOT_YET.text}", ())
    assert _awaited(tmp_path / "1", Scanner([(NOT_YET,)]), 3) == [waits, waits]
    clean = _awaited(tmp_path / "2", Scanner([(NOT_YET,), (NOT_YET,), ()]), 7)
    assert {state for state, _, _ in clean} == {MailState.INCOMING}


def test_one_answer_has_all_asked_at_once(tmp_path: Path) -> None:
    """The second mail is not due for minutes, but its scanner answers now."""
    found = _awaited(tmp_path / "q", Scanner([()]), 2, late=True)
    assert {state for state, _, _ in found} == {MailState.INCOMING}


def test_what_a_scanner_finds_later_catches_the_mail(tmp_path: Path) -> None:
    found = _awaited(tmp_path / "q", Scanner([(VIRUS,)]), 1)
    assert found == [(MailState.QUARANTINE, "", ())] * 2


def test_a_postmaster_may_let_it_go_unseen(tmp_path: Path) -> None:
    scanner = Scanner([(NOT_YET,)])
    found = _awaited(tmp_path / "q", scanner, 1, release=True)
    assert {state for state, _, _ in found} == {MailState.INCOMING}
    assert scanner.passing == [(NOT_YET,)] * 2
