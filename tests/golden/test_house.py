"""The one test that holds the house together.

For every mail: what comes over a milter socket is what the pure filter decided, and
the gateway queues exactly apply(mail, edits).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import structlog

from milterd.core.actions import Edit
from milterd.core.apply import apply
from milterd.core.decision import Decision, Verdict
from milterd.core.mail import (
    Client,
    Direction,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
    body_octets,
    parse_message,
)
from milterd.filters import CheckedFilter
from milterd.host.inside import Inside
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.lab.client import Played, play
from smtpgw.chain.chain import Chain
from smtpgw.chain.options import MilterOptions
from smtpgw.chain.results import ChainResult
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from tests.corpus.corpus import messages
from tests.golden.conftest import HOSTS, House
from tests.golden.filters import NAMES
from tests.peers.process import directory

pytestmark = pytest.mark.xdist_group("golden")  # one house for all
INSIDE = "inside"
"""In the gateway's own process, without a socket."""
BATCH = 16
"""Mails under way at once: the hosts serve many MTAs at a time."""


def _mail(octets: bytes, direction: Direction) -> Mail:
    ours = direction is Direction.ORIGINATING
    macros = {"auth_authen": b"me", "auth_type": b"PLAIN"} if ours else {}
    session = Session(
        Client(b"client.example.org", Family.INET, b"192.0.2.7", 4321), b"helo", direction, macros
    )
    envelope = Envelope(b"a@example.net", (), (Recipient(b"u@example.net"),))
    return replace(parse_message(octets), session=session, envelope=envelope)


GOLDEN = [
    (name, _mail(octets, list(Direction)[number % 2]))
    for number, (name, octets) in enumerate(messages())
]


def _decide(filter_: CheckedFilter, mail: Mail) -> Decision:
    return filter_.decide(mail, filter_.gather(mail))


Words = tuple[Verdict, tuple[Edit, ...], tuple[int, str, str] | None]


def decided(decision: Decision) -> Words:
    """What of a decision goes over the wire."""
    reply = decision.reply
    said = (reply.code, reply.enhanced, reply.text) if reply else None
    return decision.verdict, decision.edits, said


def heard(played: Played) -> Words:
    """The same, as it came."""
    reply = played.reply
    said = (reply.code, reply.enhanced, " ".join(reply.lines)) if reply else None
    return played.verdict, played.edits, said


async def _play_all(address: str, mails: list[Mail]) -> list[Played]:
    played: list[Played] = []
    for at in range(0, len(mails), BATCH):
        played += await asyncio.gather(*(play(address, each) for each in mails[at : at + BATCH]))
    return played


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("host", HOSTS)
def test_the_socket_says_what_the_filter_decided(house: House, host: str, name: str) -> None:
    pure = [_decide(house.pure[name], mail) for _, mail in GOLDEN]
    played = asyncio.run(_play_all(house.hosted[host, name], [mail for _, mail in GOLDEN]))
    differing = {
        label: (decided(decision), heard(said))
        for (label, _), decision, said in zip(GOLDEN, pure, played, strict=True)
        if decided(decision) != heard(said)
    }
    assert differing == {}
    assert any(each.edits for each in pure), "no mail was edited: this proves nothing"


def _after_all(house: House, mail: Mail) -> Mail:
    """The mail after the filters one by one, each asked what the ones before made of it."""
    for name in NAMES:
        decision = _decide(house.pure[name], mail.with_headers(mail.visible()))
        assert decision.verdict is Verdict.CONTINUE
        mail = apply(mail, decision.edits)
    return mail


async def _queue_all(house: House, host: str, mails: list[Mail]) -> list[bytes]:
    """The octets that stand in the queue after the chain and the intake."""
    milters = [_milter(house, host, name) for name in NAMES]
    with directory("queue") as home:
        store = SqliteStore.open(home, SqliteOptions(queue_minfree=0))
        clock = QueueClock(SystemClock())
        await store.recover(clock.now())
        intake = Intake(store, clock)

        async def through(mail: Mail) -> bytes:
            queue_id = intake.new_id()
            result = await _ask(milters, mail, queue_id)
            assert result.verdict is Verdict.CONTINUE, result.reasons
            await intake.accept(result.mail, queue_id=queue_id)
            content = await store.content(queue_id)
            return content.head + body_octets(content.body)

        queued: list[bytes] = []
        for at in range(0, len(mails), BATCH):
            queued += await asyncio.gather(*map(through, mails[at : at + BATCH]))
        await store.close()
    return queued


def _milter(house: House, host: str, name: str) -> MilterOptions:
    if host != INSIDE:
        return MilterOptions(name, house.hosted[host, name])
    around = Surroundings(structlog.get_logger(), lambda: "trace")
    judge = Judge(house.pure[name], Options(), around)
    return MilterOptions(name, f"filter:{name}", inside=Inside(judge, around))


async def _ask(milters: list[MilterOptions], mail: Mail, queue_id: str) -> ChainResult:
    chain = Chain(milters, log=structlog.get_logger())
    session, envelope = mail.session, mail.envelope
    await chain.connect(session)
    await chain.helo(session.helo)
    await chain.mail(
        envelope.sender, (), {"i": queue_id.encode(), **session.macros}, direction=session.direction
    )
    await chain.rcpt(envelope.recipients[0].address)
    await chain.data()
    result = await chain.message(mail, queue_id)
    await chain.close()
    return result


@pytest.mark.parametrize("host", [*HOSTS, INSIDE])
def test_the_queue_holds_the_mail_with_its_edits_and_nothing_else(house: House, host: str) -> None:
    ours = HeaderField(b"Received", b" from client\r\n\tby mx.example.net; now", hidden=True)
    mails = [mail.with_headers((ours, *mail.headers)) for _, mail in GOLDEN]
    queued = asyncio.run(_queue_all(house, host, mails))
    differing = [
        label
        for (label, _), mail, octets in zip(GOLDEN, mails, queued, strict=True)
        if octets != b"".join(_after_all(house, mail).pieces())
    ]
    assert differing == []
