"""The failure matrix on whole roads: what a sender hears and what is delivered, held or dropped,
through Postfix, through the gateway, and through the gateway with the filter in its worker, while
clamd is well, gone, stopped, loading its signatures anew, killed in the middle, at its limits, or
talks nonsense.

Every domain has a made-up row of actions, so that one milterd shows as many matrices as there are
runs.  GATEPOST_MATRIX says how many, GATEPOST_SEED which.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import smtplib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from milterd import config
from milterd.core.mail import Direction, Envelope, Mail, Recipient, Session
from milterd.filters.virus_policy import WAITABLE, Action, Matrix, Outcome
from smtpgw.queue.states import KEPT, MailState
from smtpgw.queue.store import Filter
from smtpgw.queue.tools import QueueTool
from tests.filters.clamd_peer import ClamdPeer, attachment, eicar, running_clamd, zipped
from tests.filters.fake_clamd import fake_clamd
from tests.filters.test_dkim_roads import Running
from tests.filters.test_matrix_live import FAKES, SETTINGS
from tests.gateway.gateway import Gateway
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory, free_port, wait_for
from tests.peers.smtp_sink import SmtpSink, smtp_sink

RUNS = int(os.environ.get("GATEPOST_MATRIX", "3"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261121"))
PLACES = ("first.ctl", "second.ctl")
STATES = ("well", "loading", "gone", "stopped", "killed", "silent", "nonsense", "empty")
LATER = frozenset({Action.WAIT, Action.HOLD})
WELL = frozenset({"well", "loading"})
GENERAL = ("infected", "unscannable", "too_large", "unavailable")

_PARTIAL = b"MIME-Version: 1.0\r\nContent-Type: message/partial; id=x; number=1\r\n\r\nx\r\n"
KINDS: dict[str, tuple[bytes, Outcome | None]] = {
    "clean": (attachment(b"harmless" * 500), None),
    "infected": (attachment(zipped(eicar())), Outcome.INFECTED),
    "beyond": (attachment(zipped(b"\0" * 3_000_000)), Outcome.UNSCANNABLE),
    "large": (b"Subject: x\r\n\r\n" + b"text\r\n" * 300_000, Outcome.TOO_LARGE),
    "piece": (_PARTIAL, Outcome.UNSCANNABLE),
}


def _row(dice: random.Random, share: float) -> dict[str, str]:
    named = (each for each in Outcome if dice.random() < share)
    return {each.value: _action(dice, each).value for each in named}


def _action(dice: random.Random, outcome: Outcome) -> Action:
    may = [each for each in Action if each not in LATER or outcome in WAITABLE]
    return dice.choice(may)


def _settings(home: Path, sockets: Path, dice: random.Random) -> str:
    general = _row(dice, 0.4)
    general |= {each: _action(dice, Outcome(each)).value for each in GENERAL}
    clamds = json.dumps([f"unix:{home / each}" for each in PLACES])
    tables = {
        "milterd": {
            "socket_directory": str(sockets), "socket_group": "", "socket_mode": "0666",
        },
        "filter.clamav": general,
        **{f"filter.clamav.{each.value}": _row(dice, 0.3) for each in Direction},
        **{f'filter.clamav.domain."d{run}.example"': _row(dice, 0.6) for run in range(RUNS)},
    }  # fmt: skip
    fixed = {
        "milterd": 'trusted_networks = []\ndaemon_names = ["own"]\n',
        "filter.clamav": f'clamd = {clamds}\ntimeout = "5s"\nretry = "1s"\n'
        'wait_time = "1s"\nmax_size = "1500k"\n',
    }
    return "".join(
        f"[{name}]\n{fixed.get(name, '')}"
        + "".join(f'{key} = "{value}"\n' for key, value in table.items())
        for name, table in tables.items()
    )


@dataclass(frozen=True)
class Road:
    """An MTA with the filter: the port for mail of each direction it knows, what becomes of a
    mail there, and the matrix that is in force.  `waiting`: the senders of all mail in its queue,
    and whether each is held."""

    ports: dict[Direction, int]
    sink: SmtpSink
    waiting: Callable[[], dict[str, bool]]
    matrix: Matrix
    asks_again: bool = False
    """Whether it has held mail scanned later."""

    def settled(self) -> dict[str, bool]:
        """What is held, once nothing else is in the queue."""
        wait_for(lambda: all(self.waiting().values()), "the queue is empty", within=60)
        return self.waiting()

    def delivered(self) -> dict[str, bytes]:
        """The mails that arrived, by sender."""
        found = self.sink.mails()
        return {re.findall(rb"(?m)^X-Mail-Args: <(.*?)>", each)[0].decode(): each for each in found}


@contextlib.contextmanager
def _milterd(file: Path, sockets: Path) -> Iterator[None]:
    running = Running(file, sockets / "clamav.sock")
    try:
        yield
    finally:
        running.close()


def _no_clamds(home: Path) -> None:
    for each in PLACES:
        (home / each).symlink_to("nowhere")


@contextlib.contextmanager
def by_postfix(home: Path, sink: SmtpSink) -> Iterator[Road]:
    with postfix({"default_transport": f"smtp:[127.0.0.1]:{sink.port}"}) as mta:
        sockets = mta.queue / "filters"
        sockets.mkdir()
        file = home / "gatepost.toml"
        text = _settings(home, sockets, random.Random(SEED))
        file.write_text(f'[metrics]\nmilterd = ""\n{text}')
        _no_clamds(home)
        with _milterd(file, sockets):
            try:
                mta.set({"smtpd_milters": "unix:filters/clamav.sock"})
                yield Road({Direction.INBOUND: mta.port}, sink, lambda: _queue(mta), _matrix(file))
            finally:
                mta.set({"smtpd_milters": ""})


def _queue(mta: Postfix) -> dict[str, bool]:
    lines = mta.command("postqueue", "-j").splitlines()
    return {each["sender"]: each["queue_name"] == "hold" for each in map(json.loads, lines)}


@contextlib.contextmanager
def by_gateway(home: Path, sink: SmtpSink, *, inside: bool = False) -> Iterator[Road]:
    made, own = Gateway(home), free_port()
    sockets = home / "filters"
    sockets.mkdir()
    address = "filter:clamav" if inside else f"unix:{sockets}/clamav.sock"
    tables = f"""
[[smtpgw.listener]]
name = "own"
address = "127.0.0.1:{own}"
[[smtpgw.milter]]
name = "clamav"
address = "{address}"
{_settings(home, sockets, random.Random(SEED))}"""
    made.configure(tables=tables, delivery=f"smtp:[127.0.0.1]:{sink.port}")
    text = made.file.read_text()
    made.file.write_text(text.replace("[metrics]\n", '[metrics]\nmilterd = ""\n'))
    _no_clamds(home)
    ports = {Direction.INBOUND: made.port, Direction.ORIGINATING: own}
    with contextlib.ExitStack() as stack:
        if not inside:
            stack.enter_context(_milterd(made.file, sockets))
        stack.callback(made.kill)
        made.start()
        yield Road(ports, sink, lambda: _held(made), _matrix(made.file), asks_again=True)
        assert made.stop() == 0


def by_worker(home: Path, sink: SmtpSink) -> contextlib.AbstractContextManager[Road]:
    """The filter runs in the gateway's worker."""
    return by_gateway(home, sink, inside=True)


def _held(gateway: Gateway) -> dict[str, bool]:
    with contextlib.closing(QueueTool(gateway.queue)) as tool:
        mails = tool.list(Filter(frozenset(MailState)))
        return {each.sender.decode(): each.state in (MailState.HOLD, *KEPT) for each in mails}


def _matrix(file: Path) -> Matrix:
    settings = config.load(file).filter.clamav
    assert settings is not None
    return settings.options().matrix


class Clamds:
    """Two addresses at which clamds of every state stand, as they are asked for."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self._home, self._stack = home, stack
        self.well: ClamdPeer = stack.enter_context(running_clamd(SETTINGS))
        self._fakes = {name: stack.enter_context(fake_clamd(do)) for name, do in FAKES.items()}

    @contextlib.contextmanager
    def stand(self, states: Sequence[str]) -> Iterator[None]:
        """Until the end of the block."""
        with contextlib.ExitStack() as stack:
            for place, state in zip(PLACES, states, strict=True):
                address = self._address(state, stack).removeprefix("unix:")
                new = self._home / "new"
                new.symlink_to(address)
                new.rename(self._home / place)
            yield

    def _address(self, state: str, stack: contextlib.ExitStack) -> str:
        if state in self._fakes:
            return self._fakes[state]
        if state in ("stopped", "killed"):
            other = stack.enter_context(running_clamd(SETTINGS))
            if state == "stopped":
                stack.enter_context(other.stopped())
            else:
                other.process.send_signal(signal.SIGKILL)  # while the first mails come
            return other.unix
        if state == "loading":
            self.well.process.send_signal(signal.SIGUSR2)
        return "unix:/nowhere/clamd.ctl" if state == "gone" else self.well.unix


def _told(port: int, sender: str, recipient: str, octets: bytes) -> int:
    """The answer to the end of the mail."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        try:
            client.sendmail(sender, [recipient], octets)
        except smtplib.SMTPResponseException as error:
            return error.smtp_code
        return 250


@pytest.mark.timeout(120 + 20 * RUNS)
@pytest.mark.parametrize("by", [by_postfix, by_gateway, by_worker])
def test_nothing_is_delivered_unseen_where_the_matrix_forbids_it(
    by: Callable[[Path, SmtpSink], contextlib.AbstractContextManager[Road]],
) -> None:
    found: Counter[str] = Counter()
    sent: list[_Sent] = []
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(directory("matrix"))
        sink = stack.enter_context(smtp_sink(home / "sink"))
        road = stack.enter_context(by(home, sink))
        clamds = Clamds(home, stack)
        for run in range(RUNS):
            dice = random.Random(SEED + run)
            states = [dice.choice(STATES), dice.choice(STATES)]
            direction = dice.choice(list(road.ports))
            with clamds.stand(states):
                now = list(_run(road, run, states, direction))
                for each in now:
                    each.check(road)
                sent += now
        road.settled()
        for each in sent:  # and so it has stayed
            word = each.became(road)
            assert word in each.may, (each.what, each.code, each.may)
            found[word] += 1
    print(f"seed {SEED}: {RUNS} matrices: {dict(found)}")
    assert found["delivered"]
    assert found["rejected"] + found["deferred"]


@dataclass(frozen=True)
class _Sent:
    """A mail: its sender, the answer, and what may have become of it."""

    sender: str
    code: int
    may: set[str]
    what: str

    def became(self, road: Road) -> str:
        """What has, now."""
        arrived = road.delivered().get(self.sender)
        return _became(self.code, road.waiting().get(self.sender, False), arrived)

    def check(self, road: Road) -> None:
        """It is one of those things.  A mail is answered for before everybody sees it in the
        queue: that is waited for."""
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: self.became(road) in self.may, self.what, within=20)
        assert self.became(road) in self.may, (self.what, self.code, self.may)


def _run(road: Road, run: int, states: list[str], direction: Direction) -> Iterator[_Sent]:
    domain = f"d{run}.example"
    senders = {kind: f"{kind}@{domain}" for kind in KINDS}
    with ThreadPoolExecutor(len(KINDS)) as pool:
        port, recipient = road.ports[direction], f"u@{domain}"
        answers = {
            kind: pool.submit(_told, port, senders[kind], recipient, octets)
            for kind, (octets, _) in KINDS.items()
        }
    for kind, (_, outcome) in KINDS.items():
        sender, code = senders[kind], answers[kind].result()
        envelope = Envelope(sender.encode(), (), (Recipient(f"u@{domain}".encode()),))
        mail = Mail(session=Session(direction=direction), envelope=envelope)
        found = {
            None if each is None else road.matrix.of(each, mail).action
            for each in _possible(outcome, states)
        }
        may = {"delivered" if each is None else EXPECTED[each] for each in found}
        if Action.HOLD in found and road.asks_again:
            later = (outcome, Outcome.UNAVAILABLE, Outcome.TOO_SLOW)
            actions = {each and road.matrix.of(each, mail).action for each in later}
            may |= {LATEST[each] if each else "delivered" for each in actions}
        yield _Sent(sender, code, may, f"{kind}, with clamds {states}, {direction.value}")


EXPECTED = {
    Action.REJECT: "rejected", Action.TEMPFAIL: "deferred", Action.QUARANTINE: "held",
    Action.HOLD: "held", Action.WAIT: "deferred", Action.DISCARD: "dropped", Action.TAG: "marked",
    Action.ACCEPT: "delivered",
}  # fmt: skip


LATEST = EXPECTED | {Action.REJECT: "held", Action.TEMPFAIL: "held"}
"""Of a mail that was held first: nobody is there any more who could be refused."""


def _possible(outcome: Outcome | None, states: Sequence[str]) -> set[Outcome | None]:
    """What may come out for a mail of that kind.  A mail that is too large is seen to be so
    without a clamd; one that a clamd can look at is looked at as long as one is there."""
    failed: set[Outcome | None] = {Outcome.UNAVAILABLE, Outcome.TOO_SLOW}
    if outcome is Outcome.TOO_LARGE or WELL & {*states}:
        return {outcome}
    return failed


def _became(code: int, held: bool, arrived: bytes | None) -> str:
    """What happened to a mail, in one word."""
    if code >= 400:
        assert not held
        assert arrived is None
        return "rejected" if code >= 500 else "deferred"
    if held:
        assert arrived is None
        return "held"
    if arrived is None:
        return "dropped"
    return "marked" if b"\nX-Virus-Status: " in arrived else "delivered"
