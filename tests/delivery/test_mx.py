"""Mail for the Internet: one host after the other until each recipient has its answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest
import structlog

from smtpgw.courier import CourierOptions
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.hosts import Hosts
from smtpgw.delivery.limits import LimitTable, ServiceLimits
from smtpgw.delivery.nexthop import Nexthop, parse
from smtpgw.delivery.order import Host
from smtpgw.delivery.outcome import Delivered, Destination, Job, Outcome
from smtpgw.delivery.smtp import SmtpDelivery, SmtpOptions, Troubles
from smtpgw.delivery.windows import WindowOptions
from smtpgw.dsn.report import DsnOptions
from smtpgw.queue.states import MailState, RecipientState
from smtpgw.queue.store import QueuedMail
from tests.delivery.internet import MX1, MX2, MX3, OTHER, RELAY, ZONE, host, internet
from tests.delivery.peer import CLOSE, STALL, Answer, Peer, Road, job
from tests.peers import dns as faulty
from tests.peers.process import free_port
from tests.queue.support import message, run, until

Script = Mapping[str, Answer | list[Answer]]
LATER = b"451 4.3.0 later\r\n"


async def one(way: Road, *rcpts: bytes, sender: bytes = b"") -> str:
    """Queue a mail and wait for the end of its first attempt; its id."""
    before = len(way.seen)
    queue_id = await way.accept(message(rcpts=rcpts or (b"u@example.net",), sender=sender))
    await until(lambda: len(way.seen) > before and not way.courier.active)
    return queue_id


async def left(way: Road, queue_id: str) -> QueuedMail:
    """What is known of a mail that is still here."""
    return await way.store.show(queue_id)


@pytest.mark.parametrize(
    "script",
    [
        None,
        {"CONNECT": b"421 4.3.2 busy\r\n" + CLOSE},
        {"CONNECT": b"554 5.7.1 not you\r\n" + CLOSE},
        {"CONNECT": CLOSE},
        {"CONNECT": b"SSH-2.0-x\r\n"},
        {"EHLO": LATER},
        {"EHLO": CLOSE},
        {"MAIL": LATER},
        {"MAIL": b"421 4.3.2 going down\r\n" + CLOSE},
        {"RCPT": b"450 4.2.0 greylisted\r\n"},
        {"DATA": LATER},
        {"MAIL": CLOSE},
        {"RCPT": CLOSE},
        {"DATA": CLOSE},
        {"DATA": b"250 taken without a look\r\n"},
        {"DOT": LATER},
        {"DOT": b"421 4.3.2 going down\r\n" + CLOSE},
    ],
)
def test_the_next_host_is_tried(tmp_path: Path, script: Script | None) -> None:
    """J11: dead, unwilling, or busy at any point, but never with the mail half taken."""

    async def scenario() -> None:
        peers = {MX2: host()} if script is None else {MX1: host(script), MX2: host()}
        async with internet(tmp_path, peers) as net:
            await one(net.way)
            assert len(peers[MX2].messages) == 1
            assert net.way.seen == [("smtp", "delivered")]
            assert await net.way.empty()

    run(scenario())


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ({"DOT": CLOSE}, "deferred"),
        ({"DOT": b"garbage\r\n"}, "deferred"),
        ({"DATA": b"354 go\r\n" + CLOSE}, "deferred"),
        ({"MAIL": b"550 5.7.1 no\r\n"}, "failed"),
        ({"RCPT": b"550 5.1.1 unknown\r\n"}, "failed"),
        ({"DOT": b"554 5.6.0 no\r\n"}, "failed"),
    ],
)
def test_another_host_is_not_tried_with_what_may_be_taken_or_is_refused(
    tmp_path: Path, script: Script, outcome: str
) -> None:
    async def scenario() -> None:
        peers = {MX1: host(script), MX2: host()}
        async with internet(tmp_path, peers) as net:
            await one(net.way)
            assert net.way.seen == [("smtp", outcome)]
            assert peers[MX2].connections == 0

    run(scenario())


def _by_name(line: bytes) -> bytes:
    if b"later" in line:
        return b"450 4.2.0 not now\r\n"
    return b"550 5.1.1 unknown\r\n" if b"gone" in line else b"250 2.1.5 ok\r\n"


def test_only_who_was_deferred_goes_to_the_next_host(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second, third = host({"RCPT": _by_name}), host({"RCPT": _by_name}), host()
        async with internet(tmp_path, {MX1: first, MX2: second, MX3: third}) as net:
            rcpts = (b"a@example.net", b"gone@example.net", b"later@example.net")
            queue_id = await one(net.way, *rcpts)
            asked = [re.findall(rb"<(\w+)@", line) for line in first.commands if b"RCPT" in line]
            assert asked == [[b"a"], [b"gone"], [b"later"]]
            assert [each for each in second.commands if b"RCPT" in each] == [
                b"RCPT TO:<later@example.net>\r\n"
            ]
            assert third.connections == 0, "smtp_mx_session_limit is two"
            states = [each.state for each in (await left(net.way, queue_id)).recipients]
            assert states == [
                RecipientState.DELIVERED, RecipientState.BOUNCED, RecipientState.DEFERRED,
            ]  # fmt: skip
            (waits,) = (await left(net.way, queue_id)).open
            assert (waits.text, waits.enhanced) == ("450 4.2.0 not now", "4.2.0")
            assert await net.way.store.resting() == [], "it was reached"

    run(scenario())


@pytest.mark.parametrize(("limit", "spoken_to"), [(1, 1), (2, 2), (0, 3)])
def test_so_many_hosts_are_spoken_to_for_one_mail(
    tmp_path: Path, limit: int, spoken_to: int
) -> None:
    async def scenario() -> None:
        peers = {where: host({"RCPT": LATER}) for where in (MX1, MX2, MX3)}
        options = SmtpOptions(smtp_mx_session_limit=limit)
        async with internet(tmp_path, peers, smtp=options) as net:
            await one(net.way)
            assert [peer.connections for peer in peers.values()].count(1) == spoken_to

    run(scenario())


def test_a_host_that_does_not_greet_is_no_session_and_its_words_do_not_hide_anothers(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        refusing = {"CONNECT": b"421 4.3.2 busy\r\n" + CLOSE}
        peers = {MX1: host({"RCPT": LATER}), MX2: host(refusing), MX3: host(refusing)}
        async with internet(tmp_path, peers) as net:
            queue_id = await one(net.way)
            assert peers[MX3].connections == 1
            (waits,) = (await left(net.way, queue_id)).open
            assert waits.text == "451 4.3.0 later"

    run(scenario())


def test_a_destination_is_dead_only_if_all_its_hosts_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        windows = WindowOptions(initial_destination_concurrency=1)
        options = CourierOptions(LimitTable(ServiceLimits(windows)), dsn=DsnOptions("gw.example"))
        busy = {"CONNECT": b"421 4.3.2 busy\r\n" + CLOSE}
        peers = {MX2: host(busy), OTHER: host()}
        async with internet(tmp_path, peers, options=options) as net:
            queue_id = await one(net.way)
            (rest,) = await net.way.store.resting()
            assert rest.site == "smtp:example.net"
            for words in (
                f"mx1.example.net[{MX1}]:{net.port}",
                "421 4.3.2 busy",
                f"mx3.example.net[{MX3}]:{net.port}",
            ):
                assert words in rest.note
            waits = await left(net.way, queue_id)
            assert (waits.open[0].text, waits.site) == (rest.note, rest.site)
            await net.way.accept(message(rcpts=(b"v@example.org",)))
            await until(lambda: net.messages() == {OTHER: 1})
            assert peers[MX2].connections == 1

    run(scenario())


def test_a_dead_first_host_is_not_waited_for_by_every_mail(tmp_path: Path) -> None:
    async def scenario() -> None:
        peers = {MX1: host({"CONNECT": b"421 4.3.2 busy\r\n" + CLOSE}), MX2: host()}
        async with internet(tmp_path, peers) as net:
            for _ in range(5):
                await one(net.way)
            assert (peers[MX1].connections, len(peers[MX2].messages)) == (1, 5)

    run(scenario())


def test_trouble_is_forgotten_in_time_and_bounded_in_number() -> None:
    now = 0.0
    troubles = Troubles(SmtpOptions(trouble_time=60, troubles=3), lambda: now)
    (nexthop,) = parse("[192.0.2.1]")
    assert nexthop.address is not None
    bad = Host("a", nexthop.address, 25, 1)
    good = Host("a", nexthop.address, 26, 2)
    troubles.failed(Hop("x", "a", "192.0.2.1", 25))
    assert troubles.last([bad, good]) == [good, bad]
    for port in range(100, 102):
        troubles.failed(Hop("x", "a", "192.0.2.1", port))
    now = 59.9
    assert troubles.last([bad, good]) == [good, bad]
    now = 60.0
    assert troubles.last([bad, good]) == [bad, good]
    for port in range(200, 300):
        troubles.failed(Hop("x", "a", "192.0.2.1", port))
    assert len(troubles) == 3
    troubles.answered(Hop("x", "a", "192.0.2.1", 299))
    assert len(troubles) == 2


def test_mail_waits_while_dns_is_down_and_goes_when_it_is_back(tmp_path: Path) -> None:
    """F15: never a bounce; and the destination rests instead of asking for each mail."""

    async def scenario() -> None:
        windows = WindowOptions(initial_destination_concurrency=1)
        options = CourierOptions(LimitTable(ServiceLimits(windows)), dsn=DsnOptions("gw.example"))
        peers = {MX1: host()}
        async with internet(tmp_path, peers, options=options) as net:
            net.dns.faults["*"] = faulty.SERVFAIL
            queue_id = await one(net.way)
            (waits,) = (await left(net.way, queue_id)).open
            assert (waits.state, waits.enhanced) == (RecipientState.DEFERRED, "4.4.3")
            assert "Name service error for name=example.net type=MX" in waits.text
            (rest,) = await net.way.store.resting()
            assert rest.site == "smtp:example.net"
            asked = len(net.dns.asked)
            for _ in range(5):
                await net.way.accept(message())
            net.dns.faults.clear()
            assert len(net.dns.asked) == asked
            net.way.clock.go(400)
            await until(lambda: len(peers[MX1].messages) == 6)
            await net.way.wait_empty()

    run(scenario())


@pytest.mark.parametrize(
    ("recipient", "enhanced", "words"),
    [
        (b"u@nowhere.example", "5.4.4", "Host or domain name not found"),
        (b"u@null.example", "5.1.10", "does not accept mail (nullMX)"),
        (b"u@192.0.2.1", "5.1.3", "bad address syntax"),
    ],
)
def test_what_the_name_service_is_sure_of_bounces(
    tmp_path: Path, recipient: bytes, enhanced: str, words: str
) -> None:
    async def scenario() -> None:
        box = Destination("maildir", str(tmp_path / "mail"))
        async with internet(tmp_path, {}, exceptions={"example.com": box}) as net:
            await net.way.accept(message(rcpts=(recipient,)))
            await net.way.wait_empty()
        (report,) = (tmp_path / "mail/a@example.com/new").iterdir()
        text = re.sub(r"\n\s+", " ", report.read_text("latin-1"))
        assert f"Status: {enhanced}\n" in text
        assert words in text

    run(scenario())


def test_a_relay_that_is_not_there_bounces_nothing(tmp_path: Path) -> None:
    """Our own nexthop, our own mistake (smtp(8): "configuration problem")."""

    async def scenario() -> None:
        options = SmtpOptions(relayhost="[gone.example]")
        async with internet(tmp_path, {}, default="smtp:[gone.example]", smtp=options) as net:
            queue_id = await one(net.way)
            (waits,) = (await left(net.way, queue_id)).open
            assert (waits.state, waits.enhanced) == (RecipientState.DEFERRED, "4.4.4")
            assert waits.text.startswith("SMTP server configuration problem: Host or domain name")

    run(scenario())


FALLBACK = SmtpOptions(smtp_fallback_relay=parse("[relay.example]"))


@pytest.mark.parametrize(
    ("recipient", "taken"),
    [
        (b"u@example.net", True),
        (b"u@nowhere.example", True),
        (b"u@null.example", False),
        (b"u@ours.example", False),
    ],
)
def test_the_fallback_takes_what_cannot_be_delivered_but_never_what_comes_from_it(
    tmp_path: Path, recipient: bytes, taken: bool
) -> None:
    async def scenario() -> None:
        zone = {**ZONE, "ours.example": {"MX": ["10 mx1.example.net.", "20 gw.example."]}}
        relay = host()
        async with internet(tmp_path, {RELAY: relay}, smtp=FALLBACK, zone=zone) as net:
            await one(net.way, recipient)
            assert len(relay.messages) == taken

    run(scenario())


def test_a_fallback_that_is_not_there_bounces_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = SmtpOptions(smtp_fallback_relay=parse("[gone.example]"))
        async with internet(tmp_path, {}, smtp=options) as net:
            queue_id = await one(net.way, b"u@nowhere.example")
            assert (await left(net.way, queue_id)).state is MailState.DEFERRED

    run(scenario())


def test_mail_that_would_come_back_is_bounced(tmp_path: Path) -> None:
    """J02 and H28: found out before a connection is made."""

    async def scenario() -> None:
        us = host()
        zone = {**ZONE, "ours.example": {"MX": ["10 gw.example."]}, "gw.example": {"A": [MX1]}}
        port = free_port()
        hosts = {"ports": frozenset({port})}
        async with internet(tmp_path, {MX1: us}, zone=zone, port=port, hosts=hosts) as net:
            await one(net.way, b"u@ours.example")
            assert net.way.seen == [("smtp", "failed")]
            assert us.connections == 0

    run(scenario())


def test_each_domain_has_a_transaction_and_a_site_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        peers = {MX1: host(), OTHER: host({"RCPT": LATER})}
        async with internet(tmp_path, peers) as net:
            queue_id = await one(net.way, b"a@example.net", b"b@example.net", b"c@example.org")
            await until(lambda: len(net.way.seen) == 3 and not net.way.courier.active)
            assert [each for each in peers[MX1].verbs() if each == "RCPT"] == ["RCPT"] * 2
            assert (await left(net.way, queue_id)).site == "smtp:example.org"

    run(scenario())


def test_an_address_literal_is_a_host(tmp_path: Path) -> None:
    async def scenario() -> None:
        peers = {MX1: host()}
        async with internet(tmp_path, peers) as net:
            await one(net.way, f"u@[{MX1}]".encode())
            assert len(peers[MX1].messages) == 1
            assert net.dns.asked == []

    run(scenario())


def test_nexthops_in_a_row_are_tried_in_a_row(tmp_path: Path) -> None:
    async def scenario() -> None:
        relay = host()
        default = "relay:gone.example, [mx1.example.net], [relay.example]"
        async with internet(tmp_path, {RELAY: relay}, default=default) as net:
            await one(net.way)
            assert len(relay.messages) == 1
            assert net.way.seen == [("relay", "delivered")]

    run(scenario())


def test_a_silent_host_costs_its_time_limit_and_not_the_mail(tmp_path: Path) -> None:
    async def scenario() -> None:
        peers: dict[str, Peer] = {MX1: host({"CONNECT": STALL}), MX2: host()}
        limits = {"lmtp_lhlo_timeout": 0.3}
        async with internet(tmp_path, peers, limits=limits) as net:
            await one(net.way)
            assert net.messages() == {MX2: 1}

    run(scenario())


class Counting:
    """A finder that knows one host, and a carrier that counts who is there at once."""

    def __init__(self) -> None:
        self.now, self.most, self.go_on = 0, 0, asyncio.Event()

    async def find(self, nexthop: Nexthop) -> Hosts:
        return Hosts((Host(nexthop.host, ip_address("192.0.2.1"), 25),))

    async def deliver_to(self, hop: Hop, job: Job) -> list[Outcome]:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go_on.wait()
        self.now -= 1
        return [Delivered(each.number, str(hop)) for each in job.targets]


def test_a_mail_for_a_hundred_domains_is_not_a_hundred_connections() -> None:
    async def scenario() -> None:
        both = Counting()
        options = SmtpOptions(smtp_process_limit=7)
        delivery = SmtpDelivery(options, both, both, clock=lambda: 0.0, log=structlog.get_logger())
        work = [
            asyncio.ensure_future(delivery.deliver(Destination("smtp", f"d{each}.example"), job()))
            for each in range(100)
        ]
        await until(lambda: both.now == 7)
        both.go_on.set()
        outcomes = [each for (each,) in await asyncio.gather(*work)]
        assert both.most == 7
        assert len({each.text for each in outcomes}) == 100

    run(scenario())
