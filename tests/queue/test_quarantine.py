"""The quarantine's rows: what comes in is kept as it was, within limits, over restarts and damage;
and a release that is killed at any system call ends once."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.finding import Found
from smtpgw.queue import caught as codec
from smtpgw.queue import custody, quarantine, salvage
from smtpgw.queue.caught import Caught, Room
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.custody import QuarantineFull
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter, NewMail
from smtpgw.queue.tools import QueueTool, shard_directory
from tests.queue.quarantine_victim import DONE, ENTRIES, OPTIONS, fill
from tests.queue.support import START, message, new, opened, run

POINTS = int(os.environ.get("GATEPOST_QUARANTINE_POINTS", "3"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261122"))
FOUND = Found.of("viruses", "clamav/Eicar: infected")
TEXT = st.text(max_size=20)
OCTETS = st.binary(max_size=20)
ENTRY = st.builds(
    Caught,
    findings=st.lists(st.builds(Found, TEXT, TEXT, TEXT), max_size=3).map(tuple),
    passing=st.lists(st.builds(Found, TEXT, TEXT, TEXT), max_size=3).map(tuple),
    listener=TEXT,
    macros=st.dictionaries(TEXT, OCTETS, max_size=3),
    hidden=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    hold=TEXT,
    redirect=OCTETS,
    bcc=st.lists(OCTETS, max_size=2).map(tuple),
    filtered=TEXT,
    origin=TEXT,
)


@given(ENTRY)
def test_an_entry_comes_back_as_it_was(entry: Caught) -> None:
    again = codec.from_facts(codec.to_facts(entry))
    assert again == entry
    assert [each.text for each in again.findings] == [each.text for each in entry.findings]


def kept(store: SqliteStore, entry: Caught | None = None) -> NewMail:
    return replace(new(store, message()), caught=entry or Caught((FOUND,)))


def test_it_is_in_the_quarantine_and_not_in_the_queue(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(shard_directory(tmp_path, 0)) as store:
            item = kept(store, Caught((FOUND,), lifetime=60.0))
            await store.add(item, new(store, message()))
            assert item.queue_id not in [each.queue_id for each in await store.list(Filter())]
            (found,) = await store.list(Filter(quarantine=True))
            assert (found.queue_id, found.state) == (item.queue_id, MailState.QUARANTINE)
            assert found.caught == Caught((FOUND,), lifetime=found.caught.lifetime)  # type: ignore[union-attr]
            assert [each.mail.queue_id for each in await store.lease(START, 9, 60.0)] != []
            assert await store.lease(START + 1e6, 9, 60.0) != [item.queue_id]
            late = await store.ask(lambda batch: quarantine.expired(batch, START + 59, 9))
            assert late == []
            late = await store.ask(lambda batch: quarantine.expired(batch, START + 60, 9))
            assert [each.queue_id for each in late] == [item.queue_id]
        tool = QueueTool(tmp_path)
        assert tool.level() == (1, found.size)
        assert [each.queue_id for each in tool.search(Filter(quarantine=True), START)] == [
            item.queue_id
        ]
        tool.close()

    run(scenario())


@pytest.mark.parametrize("room", [Room(2, 10**9), Room(9, 2 * message().size)])
def test_a_full_one_takes_no_more_and_the_queue_goes_on(tmp_path: Path, room: Room) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            for _ in range(2):
                await store.add(kept(store, Caught((FOUND,), room=room)))
            third = kept(store, Caught((FOUND,), room=room))
            with pytest.raises(QuarantineFull) as refused:
                await store.add(third)
            assert (refused.value.code, refused.value.enhanced) == (452, "4.3.1")
            await store.add(new(store, message()))
            assert (await store.ask(custody.level))[0] == 2
            await store.add(replace(third, caught=Caught((FOUND,))))  # what was in it already

    run(scenario())


def test_it_survives_a_repair(tmp_path: Path) -> None:
    async def scenario() -> str:
        async with opened(tmp_path / "00") as store:
            item = kept(store, Caught((FOUND,), lifetime=60.0))
            await store.add(item)
            return item.queue_id

    queue_id = run(scenario())
    salvage.repair(tmp_path / "00", "now")

    async def look() -> None:
        async with opened(tmp_path / "00") as store:
            then = await store.ask(lambda batch: quarantine.expiry(batch, queue_id))
            assert then == START + 60.0
            assert (await store.show(queue_id)).caught == Caught((FOUND,))

    run(look())


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM caught",
        "UPDATE caught SET expires='never'",
        "UPDATE mail SET due='never', state=7",
        "INSERT INTO caught VALUES (999, 1e18, 1)",
    ],
)
def test_a_lost_date_is_made_good_at_the_start(tmp_path: Path, damage: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await store.add(item := kept(store))
            await store.change(lambda batch, _: batch.db.execute(damage))
            await store.recover(START)
            (found,) = await store.list(Filter(quarantine=True))
            assert found.queue_id == item.queue_id
            assert (await store.ask(custody.level))[0] == 1
            soon = START + 31 * 86_400.0
            late = await store.ask(lambda batch: quarantine.expired(batch, soon, 9))
            due = await store.ask(lambda batch: quarantine.wanted(batch, soon, 9))
            assert [each.queue_id for each in (*late, *due)] == [item.queue_id]

    run(scenario())


# -- killed ---------------------------------------------------------------------------------


def _life(home: Path, *, at: tuple[str, int] | None) -> int:
    """Release and expire what is there; the exit status, and how it was killed."""
    command = [sys.executable, "-m", "tests.queue.quarantine_victim", str(home)]
    if at is not None:
        call, number = at
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        kill = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
        command = [*kill, *command]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, cwd=root, check=False, capture_output=True, timeout=60
    ).returncode


def _calls(home: Path) -> list[tuple[str, int]]:
    """Every call of the part that writes, by a life that is only traced."""
    log = home / "trace"
    names = "pwrite64,fdatasync,fsync,openat,unlink,write,rename"
    command = ["strace", "-f", "-c", "-o", str(log), "-e", f"trace={names}", sys.executable]
    command += ["-m", "tests.queue.quarantine_victim", str(home)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    found = []
    for line in log.read_text().splitlines():
        words = line.split()
        if words and words[-1] in names.split(","):
            found.append((words[-1], int(words[3])))
    return found


def test_a_release_that_is_killed_at_any_call_ends_once(tmp_path: Path) -> None:
    first = tmp_path / "first"
    asyncio.run(fill(first))
    calls = _calls(first)
    assert _state(first) == DONE
    dice = random.Random(SEED)
    killed = 0
    for number in range(POINTS):
        call, most = dice.choice([each for each in calls if each[0] != "openat"])
        home = tmp_path / f"{number}"
        asyncio.run(fill(home))
        # The last calls are those of the store; the first are of the start of Python.
        at = max(1, most - dice.randrange(max(1, most * 3 // 4)))
        killed += _life(home, at=(call, at)) != 0
        assert _life(home, at=None) == 0
        assert _state(home) == DONE, (call, at)
    assert killed, "nothing was killed: this proves nothing"


def _state(home: Path) -> dict[str, int]:
    """How many mails stand where, and how often each content is there."""

    async def look() -> dict[str, int]:
        store = SqliteStore.open(home, OPTIONS, clock=QueueClock(SystemClock()))
        try:
            counts = await store.counts()
            bodies = []
            for each in await store.list(Filter()):
                content = await store.content(each.queue_id)
                bodies.append(b"".join(content.pieces()))
            assert len(set(bodies)) == len(bodies), "one was released twice"
            return {each.name: count for each, count in counts.items() if count}
        finally:
            await store.close()

    assert len(list((home / "bodies").iterdir())) <= ENTRIES
    return asyncio.run(look())
