"""The failure matrix with clamds that are well, dead, stopped, slow, over their limits, or talk
nonsense: whatever is made up, no mail goes on unseen where the matrix forbids it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from milterd.core.actions import Quarantine
from milterd.core.decision import Verdict
from milterd.core.mail import Direction, Envelope, Mail, Recipient, Session, parse_message
from milterd.filters import build_clamav
from milterd.filters.clamav import ClamavOptions
from milterd.filters.virus_policy import PASSING, Action, Outcome
from milterd.ports.scanner import Clean
from tests.filters.clamd_peer import ClamdPeer, attachment, eicar, running_clamd, zipped
from tests.filters.fake_clamd import fake_clamd

RUNS = int(os.environ.get("GATEPOST_MATRIX", "10"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261121"))
TOGETHER = 3
"""Matrices at a time: it is clamds that say nothing that take the time.  The one that is well
scans four mails at a time, and each matrix has one at a time."""
SETTINGS = (
    "StreamMaxLength 2M\nMaxFileSize 4M\nMaxScanSize 1M\nAlertEncrypted yes\nAlertExceedsMax yes\n"
)
SEEN = {
    "clean": parse_message(attachment(b"harmless" * 500)),
    "infected": parse_message(attachment(zipped(eicar()))),
    "beyond its limits": parse_message(attachment(zipped(b"\0" * 3_000_000))),
    "too large": parse_message(b"Subject: x\r\n\r\n" + b"text\r\n" * 300_000),
    "a piece": parse_message(
        b"MIME-Version: 1.0\r\nContent-Type: message/partial; id=x; number=1\r\n\r\nx\r\n"
    ),
}
STATES = ("well", "dead", "silent", "nonsense", "empty", "stopped", "well")


def _nonsense(peer: socket.socket) -> None:
    peer.recv(100)
    peer.sendall(b"\xff\xfe OK OK FOUND\n")


def _empty(peer: socket.socket) -> None:
    peer.recv(100)


def _silent(peer: socket.socket) -> None:
    peer.settimeout(5)
    with contextlib.suppress(OSError):
        while peer.recv(4096):
            pass


FAKES = {"nonsense": _nonsense, "empty": _empty, "silent": _silent}


@pytest.fixture(scope="module")
def peer() -> Iterator[ClamdPeer]:
    with running_clamd(SETTINGS) as running:
        yield running


@contextlib.contextmanager
def _clamd(state: str, peer: ClamdPeer) -> Iterator[str]:
    """The address of a clamd in this state."""
    if state in FAKES:
        with fake_clamd(FAKES[state]) as address:
            yield address
    elif state == "stopped":
        with running_clamd(SETTINGS) as other:
            os.kill(other.process.pid, signal.SIGSTOP)
            try:
                yield other.unix
            finally:
                os.kill(other.process.pid, signal.SIGCONT)
    else:
        yield peer.unix if state == "well" else "unix:/nowhere/clamd.sock"


def _options(dice: random.Random, addresses: tuple[str, ...]) -> ClamavOptions:
    def row(share: float) -> dict[Outcome, Action]:
        return {each: dice.choice(list(Action)) for each in Outcome if dice.random() < share}

    general = {
        each: dice.choice(list(Action))
        for each in (Outcome.INFECTED, Outcome.UNSCANNABLE, Outcome.TOO_LARGE, Outcome.UNAVAILABLE)
    }
    return dataclasses.replace(
        ClamavOptions(),
        clamd=addresses,
        timeout=1.5,
        wait_time=0.5,
        max_size=1_500_000,
        **{each.value: action for each, action in general.items()},
        others={each: action for each, action in row(0.4).items() if each not in general},
        directions={each: row(0.3) for each in Direction},
        domains={b"a.example": row(0.3)},
    )


def _mail(dice: random.Random, mail: Mail) -> Mail:
    those = dice.sample([b"u@a.example", b"v@b.example", b"w@A.example"], dice.randint(1, 3))
    return dataclasses.replace(
        mail,
        session=Session(direction=dice.choice(list(Direction))),
        envelope=Envelope(b"s@a.example", (), tuple(map(Recipient, those))),
    )


def _matrix(number: int, peer: ClamdPeer) -> Counter[str]:
    """What becomes of a mail of each kind by one matrix that is made up."""
    dice = random.Random(SEED + number)
    states = [dice.choice(STATES) for _ in range(dice.randint(1, 3))]
    if "stopped" in states and dice.random() < 0.7:
        states = ["dead" if each == "stopped" else each for each in states]  # slow to make
    with contextlib.ExitStack() as stack:
        addresses = tuple(stack.enter_context(_clamd(each, peer)) for each in states)
        return Counter(_run(dice, _options(dice, addresses), states))


@pytest.mark.timeout(120 + 10 * RUNS)
def test_nothing_goes_on_unseen_where_the_matrix_forbids_it(peer: ClamdPeer) -> None:
    told: Counter[str] = Counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        for each in pool.map(lambda number: _matrix(number, peer), range(RUNS)):
            told.update(each)
    told_of = ", ".join(f"{what}: {count}" for what, count in sorted(told.items()))
    print(f"seed {SEED}: {RUNS} matrices, {told.total()} mails: {told_of}")
    assert told["clean"]
    assert told["unavailable"] + told["too_slow"]


def _run(dice: random.Random, options: ClamavOptions, states: list[str]) -> Iterator[str]:
    built = build_clamav(options)
    for name, plain in SEEN.items():
        mail = _mail(dice, plain)
        began = time.monotonic()
        facts = built.gather(mail)
        assert time.monotonic() - began < 10, "a scan has an end"
        decision = built.decide(mail, facts)
        outcome = built._signatures.of(facts)
        yield outcome.value if outcome else "clean"
        if outcome is None:
            assert isinstance(facts, Clean)
            assert name == "clean", f"{name} was taken for clean, with clamd {states}"
            assert decision.verdict is Verdict.CONTINUE
            continue
        if "well" in states:
            assert outcome not in (Outcome.UNAVAILABLE, Outcome.TOO_SLOW), (name, states)
        action = options.matrix.of(outcome, mail).action
        held = any(isinstance(each, Quarantine) for each in decision.edits)
        goes_on = decision.verdict is Verdict.CONTINUE and not held
        assert goes_on is (action in PASSING), (name, outcome, action)
        assert held is (action in (Action.QUARANTINE, Action.HOLD))


def test_a_mail_waits_for_a_clamd_that_comes_back() -> None:
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(running_clamd(SETTINGS))
        options = dataclasses.replace(
            ClamavOptions(),
            clamd=(peer.unix,),
            timeout=0.5,
            retry=1.0,
            wait_time=60.0,
            unavailable=Action.WAIT,
        )
        built = build_clamav(options)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        with peer.stopped():
            names = ("clean", "infected")
            waiting = {each: pool.submit(built.gather, SEEN[each]) for each in names}
            with pytest.raises(TimeoutError):  # longer than a scan may take: they wait
                waiting["clean"].result(1.5)
            assert not waiting["infected"].done()
        assert isinstance(waiting["clean"].result(60), Clean)
        assert built._signatures.of(waiting["infected"].result(60)) is Outcome.INFECTED
