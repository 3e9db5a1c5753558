"""A release that goes wrong: what milters that fail would refuse is not let go, and a release that
cannot be worked on waits and harms nobody else."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from milterd.base import logs
from smtpgw.chain.health import Health
from smtpgw.chain.options import MilterOptions
from smtpgw.intake import Intake
from smtpgw.quarantine.again import Again, Way
from smtpgw.quarantine.keeper import Keeper, KeeperOptions
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.queue.quarantine_victim import ENTRIES, OPTIONS, fill
from tests.queue.support import run


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
