"""Where the running gateway sends mail: tables, transports of their own names, and their limits."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.gateway.gateway import Gateway, send_by, until
from tests.gateway.sinks import Sink, sink
from tests.peers.dns import DnsServer, dns_server
from tests.peers.process import directory, free_port
from tests.peers.smtp_sink import SmtpSink, smtp_sink
from tests.tables.scripted import scripted

ZONE = {
    "host.example": {"MX": ["10 near.example."], "A": ["127.0.0.3"]},
    "near.example": {"A": ["127.0.0.2"]},
    "provider.example": {"MX": ["10 mx.provider.example."]},
    "mx.provider.example": {"A": ["127.0.0.3"]},
    "limited.example": {"A": ["127.0.0.4"]},
}
TRANSPORT = """
special@a.example     relay:[host.example]
a.example             relay:host.example
.a.example            smtp:[127.0.0.3]
provider.example      slow:
err.example           error:5.7.1 nobody is here
wait.example          retry:4.7.1 not today
drop.example          discard:
look.example          hold:somebody looks
strange.example       uucp:host
broken.example        smtp:[host.example
home.example          local:
few.example           few:[127.0.0.4]:{limited}
paced.example         paced:[127.0.0.4]:{limited}
whole.example         whole:[127.0.0.4]:{limited}
other.example         whole:[limited.example]:{limited}
one.example           one:[127.0.0.4]:{limited}
"""
SENDERS = "boss@example.org  smtp:[127.0.0.3]\n@example.org  smtp:\n"
RELAYS = "@relayed.example  [127.0.0.3]\n"
GENERIC = "u@inside.example  he@outside.example\nboss@example.org  chief@outside.example\n"
DELAY = 0.4


@dataclass
class Town:
    """The gateway; the sinks `near` (127.0.0.2), `other` (127.0.0.3) and `limited` (127.0.0.4)."""

    gateway: Gateway
    dns: DnsServer
    near: SmtpSink
    other: SmtpSink
    limited: Sink

    def send(self, *recipients: str, sender: str = "a@example.org", field: bytes = b"") -> str:
        """Send a mail; its queue id."""
        text = b"Subject: for %b\r\n" % recipients[0].encode() + field + b"\r\nhello\r\n"
        code, said = self.gateway.send(text, sender, recipients)
        assert code == 250, said
        return said.rpartition(" ")[2]

    def outcome(self, queue_id: str) -> dict[str, object]:
        """The first line of the log about its delivery."""
        return until(lambda: self.gateway.events("delivery", queue_id=queue_id))[0]

    def place(self, queue_id: str) -> str:
        """Which of the sinks has it."""
        line = self.outcome(queue_id)
        assert line["outcome"] == "delivered", line
        sinks = {"near": self.near, "other": self.other}
        mark = queue_id.encode()
        return until(
            lambda: [name for name, each in sinks.items() if any(mark in m for m in each.mails())]
        )[0]

    def queued(self, queue_id: str) -> dict[str, str]:
        """What `smtpgw queue list` says of it."""
        command = [sys.executable, "-m", "smtpgw", "queue", "list", "--json"]
        command += ["-c", str(self.gateway.file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return next(each for each in rows if each["queue_id"] == queue_id)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    port = free_port()
    with (
        directory("rt") as home,
        smtp_sink(home / "near", address="127.0.0.2", port=port) as near,
        smtp_sink(home / "other", address="127.0.0.3", port=port) as other,
        sink("127.0.0.4") as limited,
        dns_server(ZONE) as server,
    ):
        (home / "gw").mkdir()
        gateway = Gateway(home / "gw")
        texts = {"transport": TRANSPORT.format(limited=limited.port), "senders": SENDERS}
        for name, text in {**texts, "relays": RELAYS, "generic": GENERIC}.items():
            (home / name).write_text(text)
        gateway.configure(
            f"""
default_transport = "smtp"
relay_transport = "relay"
transport_maps = ["hash:{home}/transport"]
sender_dependent_default_transport_maps = ["hash:{home}/senders"]
sender_dependent_relayhost_maps = ["hash:{home}/relays"]
smtp_generic_maps = ["hash:{home}/generic"]
local_header_rewrite_clients = []
""",
            f"""
smtp_tcp_port = {port}
smtp_mx_refuse_addresses = []
smtp_host_lookup = ["dns", "native"]
inet_protocols = "ipv4"
initial_destination_concurrency = 20
[smtpgw.services.slow]
deliver = "smtp"
[smtpgw.services.few]
deliver = "smtp"
destination_concurrency_limit = 2
[smtpgw.services.paced]
deliver = "smtp"
destination_rate_delay = {DELAY}
[smtpgw.services.whole]
deliver = "smtp"
transport_rate_delay = {DELAY}
[smtpgw.services.one]
deliver = "smtp"
destination_recipient_limit = 1
[smtpgw.dns]
nameservers = ["127.0.0.1:{server.port}"]
query_timeout = 2
""",
        )
        try:
            yield Town(gateway.start(), server, near, other, limited)
        finally:
            gateway.kill()


@pytest.mark.parametrize(
    ("recipient", "place", "destination"),
    [
        ("special@a.example", "other", "relay:[host.example]"),
        ("SPECIAL@A.example", "other", "relay:[host.example]"),
        ("u@a.example", "near", "relay:host.example"),
        ("u@b.a.example", "other", "smtp:[127.0.0.3]"),
        ("u@host.example", "near", "smtp:host.example"),
        ("u@provider.example", "other", "slow:provider.example"),
    ],
)
def test_the_table_says_where(town: Town, recipient: str, place: str, destination: str) -> None:
    """By address, by domain, by a domain above; in brackets a host, without its exchangers."""
    queue_id = town.send(recipient)
    assert town.place(queue_id) == place
    assert town.outcome(queue_id)["destination"] == destination


def test_of_a_host_in_brackets_no_mail_exchangers_are_asked_for(town: Town) -> None:
    before = town.dns.count("host.example", "MX")
    town.place(town.send("special@a.example"))
    assert town.dns.count("host.example", "MX") == before
    assert ("127.0.0.3", "MX") not in town.dns.asked


def test_our_own_domain_and_one_that_is_sent_home(town: Town) -> None:
    for recipient in ("u@example.net", "u@home.example"):
        town.send(recipient)
        (mail,) = town.gateway.delivered(recipient)
        top = b"Return-Path: <a@example.org>\nX-Original-To: %b\nDelivered-To: %b\n"
        assert mail.startswith(top % (recipient.encode(), recipient.encode()))


@pytest.mark.parametrize(
    ("sender", "place"),
    [("boss@example.org", "other"), ("x@example.org", "near"), ("x@relayed.example", "other")],
)
def test_the_sender_may_say_where(town: Town, sender: str, place: str) -> None:
    """By the sender of each mail when it is delivered; but for a transport of the table."""
    assert town.place(town.send("v@host.example", sender=sender)) == place
    assert town.place(town.send("v@a.example", sender=sender)) == "near"


@pytest.mark.parametrize(
    ("recipient", "outcome", "status", "words"),
    [
        ("u@drop.example", "delivered", "2.0.0", "discarded"),
        ("u@look.example", "held", "4.0.0", "somebody looks"),
        ("u@strange.example", "deferred", "4.3.5", "no transport is called 'uucp'"),
        ("u@broken.example", "deferred", "4.3.5", "expected example.com, [host]"),
    ],
)
def test_what_needs_no_host(
    town: Town, recipient: str, outcome: str, status: str, words: str
) -> None:
    queue_id = town.send(recipient)
    line = town.outcome(queue_id)
    assert (line["outcome"], line["status"]) == (outcome, status)
    assert words in str(line["reason"])
    if outcome in ("deferred", "held"):
        wanted = "hold" if outcome == "held" else "deferred"
        shown = until(
            lambda: (found := town.queued(queue_id))["state"] == wanted and found, what=wanted
        )
        assert words in shown["reason"]


@pytest.mark.parametrize(
    ("recipient", "code", "words"),
    [
        ("u@err.example", 550, "5.7.1 <u@err.example>: Recipient address rejected: nobody is here"),
        ("u@wait.example", 450, "4.7.1 <u@wait.example>: Recipient address rejected: not today"),
    ],
)
def test_who_is_refused_by_the_table_is_refused_at_the_door(
    town: Town, recipient: str, code: int, words: str
) -> None:
    assert town.gateway.send(recipients=[recipient]) == (code, words)


def test_what_leaves_has_the_addresses_of_the_outside(town: Town) -> None:
    """And what does not leave has its own; a report is for whom the mail was."""
    field = b"From: Boss <boss@example.org>\r\nTo: u@inside.example\r\n"
    queue_id = town.send(
        "special@a.example", "u@example.net", sender="boss@example.org", field=field
    )
    mark = queue_id.encode()
    (mail,) = until(lambda: [each for each in town.other.mails() if mark in each])
    assert b"X-Mail-Args: <chief@outside.example>" in mail
    assert b"From: Boss <chief@outside.example>\nTo: he@outside.example\n" in mail
    (home,) = until(lambda: [each for each in town.gateway.delivered() if mark in each])
    assert b"Return-Path: <boss@example.org>\n" in home
    assert field.replace(b"\r\n", b"\n") in home


def _burst(town: Town, *recipients: str) -> None:
    """A mail for each of these, one right after the other."""
    with town.gateway.client() as client:
        for each in recipients:
            code, said = send_by(client, b"Subject: x\r\n\r\nx\r\n", "b@burst.example", [each])
            assert code == 250, said


def _outcomes(town: Town, transport: str) -> int:
    lines = town.gateway.events("delivery", outcome="delivered")
    return sum(str(each["destination"]).startswith(f"{transport}:") for each in lines)


def test_no_more_at_once_than_the_limit(town: Town) -> None:
    town.limited.open.clear()
    town.limited.most = 0
    _burst(town, *(f"u{each}@few.example" for each in range(8)))
    until(lambda: town.limited.busy == 2, what="two at once")
    assert town.place(town.send("u@a.example")) == "near", "it stands in nobody's way"
    assert town.limited.busy == 2
    town.limited.open.set()
    until(lambda: _outcomes(town, "few") == 8, what="all of them")
    assert town.limited.most == 2


@pytest.mark.parametrize(
    ("transport", "domains"), [("paced", ["paced"]), ("whole", ["whole", "other"])]
)
def test_there_is_a_pause_between_two(town: Town, transport: str, domains: list[str]) -> None:
    """From the end of one to the begin of the next; one at a time."""
    before, town.limited.most = len(town.limited.mails), 0
    names = [f"{each}.example" for each in domains]
    _burst(town, *(f"u{n}@{name}" for n, name in zip(range(5), itertools.cycle(names))))
    until(lambda: _outcomes(town, transport) == 5, what="all of them")
    mails = town.limited.mails[before:]
    assert (len(mails), town.limited.most) == (5, 1)
    for one, other in itertools.pairwise(mails):
        assert other.began - one.ended >= DELAY


def test_one_recipient_in_a_delivery_is_a_copy_for_each(town: Town) -> None:
    before = len(town.limited.mails)
    queue_id = town.send(*(f"u{each}@one.example" for each in range(4)))
    until(lambda: _outcomes(town, "one") == 4, what="all of them")
    mails = town.limited.mails[before:]
    assert sorted(each.recipients for each in mails) == [
        (b"u%d@one.example" % each,) for each in range(4)
    ]
    assert len({each.text.partition(b"Subject")[2] for each in mails}) == 1
    lines = town.gateway.events("delivery", queue_id=queue_id)
    assert len({str(each["destination"]) for each in lines}) == 4


class Answers:
    """A socketmap: what it says of one address; with nothing to say it cannot answer."""

    def __init__(self) -> None:
        self.value = b""

    def __call__(self, line: bytes) -> bytes:
        key = line.partition(b":")[2].removesuffix(b",").partition(b" ")[2]
        reply = b"TEMP not now"
        if self.value:
            reply = b"OK %b" % self.value if key == b"u@far.example" else b"NOTFOUND "
        return b"%d:%b," % (len(reply), reply)


def test_a_table_that_cannot_answer_loses_nothing(gateway: Gateway) -> None:
    """The mail waits, the queue says for what, and it goes when the table has an answer."""
    answers = Answers()
    answers.value = b"smtp:[127.0.0.1]:%d" % free_port()
    with directory("rt") as home, scripted(answers) as server, smtp_sink(home) as there:
        gateway.configure(
            f"""
transport_maps = ["socketmap:inet:127.0.0.1:{server.port}:transport"]
default_transport = "smtp"
""",
            "[smtpgw.tables]\ncache_size = 0\n",
        )
        gateway.start()
        code, said = gateway.send(recipients=["u@far.example"])
        assert code == 250, said
        until(lambda: gateway.count("delivery", status="4.4.1"))
        answers.value = b""
        _flush(gateway)
        (line,) = until(lambda: gateway.events("delivery", status="4.3.0"))
        assert f"127.0.0.1:{server.port}:transport cannot answer now" in line["reason"]
        assert gateway.send(recipients=["u@far.example"])[0] == 451
        answers.value = b"retry:4.7.1 not yet"
        _flush(gateway)
        until(lambda: gateway.count("delivery", status="4.7.1", reason="not yet"))
        answers.value = b"smtp:[127.0.0.1]:%d" % there.port
        _flush(gateway)
        (mail,) = until(there.mails)
        assert said.rpartition(" ")[2].encode() in mail
        answers.value = b"smtp:[127.0.0.1]:%d" % free_port()
        assert gateway.send(recipients=["u@far.example"], sender="s@example.net")[0] == 250
        until(lambda: gateway.count("delivery", status="4.4.1") == 2)
        answers.value = b"error:5.1.6 gone for good"
        _flush(gateway)
        until(lambda: gateway.count("delivery", status="5.1.6", reason="gone for good"))


def _flush(gateway: Gateway) -> None:
    command = [sys.executable, "-m", "smtpgw", "queue", "flush", "ALL", "-c", str(gateway.file)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("rule", ["relayhost", "transport_maps"])
def test_a_gateway_without_users(gateway: Gateway, rule: str) -> None:
    """Postfix's null client: nothing is local, all goes to the relay."""
    with directory("rt") as home, smtp_sink(home) as relay:
        nexthop = f"[127.0.0.1]:{relay.port}"
        (home / "all").write_text(f"*  smtp:{nexthop}\n")
        value = f'"{nexthop}"' if rule == "relayhost" else f'["hash:{home}/all"]'
        gateway.configure(
            f"""
default_transport = "smtp"
{rule} = {value}
local_transport = "error:local mail delivery is disabled"
proxy_interfaces = ["192.0.2.9"]
"""
        )
        text = gateway.file.read_text()
        gateway.file.write_text(
            text.replace('mydestination = ["example.net"]', "mydestination = []")
        )
        gateway.start()
        assert gateway.send(recipients=["u@example.net"])[0] == 250
        (mail,) = until(relay.mails)
        assert b"X-Rcpt-Args: <u@example.net>" in mail
        if rule == "relayhost":
            answer = gateway.send(recipients=["u@[192.0.2.9]"])
            words = "Recipient address rejected: local mail delivery is disabled"
            assert answer == (550, f"5.1.1 <u@[192.0.2.9]>: {words}")
