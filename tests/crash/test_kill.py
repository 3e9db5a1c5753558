"""Promise 1 under kill -9: what was answered with 250 is delivered, whatever dies.

The whole road runs under load: both supervisors, the gateway's worker, three filters.
Again and again one process, chosen by chance, is killed in the middle of it.  The
clients' book of 250s and the LMTP sink's book of deliveries are compared at the end.

This is about whole processes: which system call they were at is chance, and each kill costs
starts of Python.  `make test` kills 40 times, `make nightly` 250 times (GATEPOST_KILLS); that
no call is forgotten is for test_syscalls.py to show.  Half of the kills are of a road with the
settings that the benchmarks measure, half of one where mail has to wait for its delivery.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.ledger import Delivery, Ledger, Sink, send_mails
from tests.crash.stack import Daemon, Killer
from tests.crash.town import Town, town
from tests.peers.process import wait_for

KILLS = int(os.environ.get("GATEPOST_KILLS", "40"))
SEED = int(os.environ.get("GATEPOST_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
CLIENTS = 8
STORM = 0.2
"""How many kills do not wait until the kill before has been got over."""
PATIENCE = 30.0
"""Seconds the gateway may take, after any kill, until it accepts mail again."""
SETTLE = 90.0
"""Seconds the gateway may take, alive and without load, until it owes nobody a mail."""


def _message(name: str) -> bytes:
    size = 300 if zlib.crc32(name.encode()) % 8 else 400_000
    line = f"a line of {name}, to be kept to the octet\r\n"
    head = f"From: a@example.net\r\nTo: b@example.net\r\nX-Ledger: {name}\r\n\r\n"
    return (head + line * (size // len(line) + 1)).encode().removesuffix(b"\r\n")


async def _kill_under_load(daemons: list[Daemon], ledger: Ledger, dice: random.Random) -> Killer:
    """KILLS // 2 times."""
    killer = Killer(daemons)
    await ledger.reaches(lambda: len(ledger.promised) > CLIENTS, PATIENCE)
    while sum(killer.killed.values()) < KILLS // 2:
        for each in daemons:
            each.keep_up()
        await _some_traffic(ledger, dice)
        daemon = dice.choice(daemons)
        tree = daemon.tree()
        if tree:
            killer.kill(daemon, dice.choice(tree))
    return killer


async def _some_traffic(ledger: Ledger, dice: random.Random) -> None:
    """Until some more mails were accepted; now and then sooner, while things still start."""
    if dice.random() < STORM:
        await ledger.reaches(lambda: False, dice.uniform(0.0, 1.0))
        return
    enough = len(ledger.promised) + dice.randint(1, 30)
    await ledger.reaches(lambda: len(ledger.promised) >= enough, PATIENCE)


async def _storm(place: Town, dice: random.Random) -> tuple[Ledger, Killer]:
    ledger, stop = Ledger(), asyncio.Event()
    sink = Sink(ledger, place.sink)
    await sink.start()
    for each in place.daemons:
        each.start()
    await asyncio.to_thread(place.wait_until_up)
    names = (f"{number}-{dice.getrandbits(32):08x}" for number in itertools.count())
    load = [
        asyncio.create_task(send_mails(ledger, place.port, names, _message, stop))
        for _ in range(CLIENTS)
    ]
    killer = await _kill_under_load(place.daemons, ledger, dice)
    stop.set()
    await asyncio.gather(*load)
    for each in place.daemons:
        each.keep_up()
    await ledger.reaches(lambda: not ledger.owed(), SETTLE)
    # What a killed worker had delivered, without a word of it in the queue yet, is not owed, and
    # yet to be delivered again.
    await asyncio.to_thread(
        wait_for, lambda: not place.queued(), "the queue is empty", within=SETTLE
    )
    # The sockets of a killed milterd are removed by its successor, once that is up.
    await asyncio.to_thread(place.wait_until_up)
    for each in place.daemons:
        await asyncio.to_thread(each.stop)
    await sink.stop()
    return ledger, killer


@pytest.mark.timeout(600)
@pytest.mark.parametrize("settings", ["few-deliveries", "as-measured"])
def test_no_accepted_mail_is_lost_whatever_is_killed(
    settings: str, record_property: Callable[[str, object], None]
) -> None:
    dice = random.Random(f"{SEED} {settings}")
    measured = settings == "as-measured"
    with town(workers=2, measured=measured, sockets=not measured) as place:
        ledger, killer = asyncio.run(_storm(place, dice))
        twice = ledger.twice()
        record_property(
            "measured",
            f"kill -9, {settings}, seed {SEED}: {killer.killed};"
            f" {len(ledger.promised)} mails accepted,"
            f" {sum(map(len, ledger.promised.values()))} recipients, {len(ledger.owed())} lost,"
            f" {len(twice)} delivered twice, {ledger.refused} refused for now,"
            f" {ledger.broken} connections broken",
        )
        assert len(ledger.promised) > KILLS // 2, "hardly any mail went through"
        assert not ledger.owed(), place.logs()
        assert _altered(ledger) == []
        unexplained = {key: times for key, times in twice.items() if not _crashed(times, killer)}
        assert unexplained == {}, "delivered again without a crash of the gateway in between"
        assert len(twice) <= len(killer.gateway_kills) * 2 * place.deliveries_in_flight
        place.check_nothing_left()


def _crashed(times: list[Delivery], killer: Killer) -> bool:
    """Whether the gateway was killed after each delivery began and before the next did.

    (Octets on their way outlive the gateway, so a delivery may be complete after the kill.)
    """
    return all(
        any(before.began < kill < after.began for kill in killer.gateway_kills)
        for before, after in itertools.pairwise(times)
    )


def _altered(ledger: Ledger) -> list[str]:
    """The mails whose body is not what was sent."""
    bodies = {name: octets.partition(b"\r\n\r\n")[2] for name, octets in ledger.octets.items()}
    return [
        name
        for name, body in bodies.items()
        if body.removesuffix(b"\r\n") != _message(name).partition(b"\r\n\r\n")[2]
    ]


def test_the_book_notices_a_loss(tmp_path: Path) -> None:
    """The comparison itself can fail: a promise without a delivery is owed."""
    ledger = Ledger(promised={"a": ("x@example.net",), "b": ("y@example.net",)})
    ledger.delivered["a", "x@example.net"].append(Delivery(1.0, 1.1))
    assert ledger.owed() == {("b", "y@example.net")}
    wait_for(lambda: not ledger.twice(), "nothing twice", within=1)
