"""The running gateway and the Internet: a name server, a Postfix and smtp-sinks on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway, until
from tests.peers import dns as faulty
from tests.peers.dns import DnsServer, dns_server
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory
from tests.peers.smtp_sink import SmtpSink, smtp_sink

BODY = b"one\r\n.two\r\n..\r\n" + b"x" * 900 + b"\r\n"
ZONE = {
    "example.org": {"MX": ["5 dead.example.org.", "10 busy.example.org.", "20 good.example.org."]},
    "dead.example.org": {"A": ["127.0.0.4"]},
    "busy.example.org": {"A": ["127.0.0.2"]},
    "good.example.org": {"A": ["127.0.0.3"]},
    "example.com": {"A": ["127.0.0.1"]},
    "null.example": {"MX": ["0 ."]},
    "ours.example": {"MX": ["10 gw.example.net."]},
    "gw.example.net": {"A": ["127.0.0.1"]},
}


@dataclass
class Town:
    """The gateway among its peers.  `busy` defers every recipient, `good` takes them, and
    Postfix, at example.com, passes on to `good`."""

    gateway: Gateway
    dns: DnsServer
    busy: SmtpSink
    good: SmtpSink
    postfix: Postfix

    def send(self, recipient: str, text: bytes = BODY) -> str:
        """Send a mail from example.net; its queue id."""
        code, said = self.gateway.send(
            b"Subject: to %b\r\n\r\n" % recipient.encode() + text, "u@example.net", [recipient]
        )
        assert code == 250, said
        return said.rpartition(" ")[2]

    def outcome(self, queue_id: str) -> dict[str, object]:
        """The first line of the log about its delivery."""
        return until(lambda: self.gateway.events("delivery", queue_id=queue_id))[0]

    def taken(self, text: bytes) -> list[bytes]:
        """The mails of the good host that hold this."""
        return [each for each in self.good.mails() if text in each]


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with (
        directory("net") as home,
        postfix({"smtp_dns_support_level": "disabled"}) as relay,
        smtp_sink(home / "busy", "-r", "rcpt", address="127.0.0.2", port=relay.port) as busy,
        smtp_sink(home / "good", address="127.0.0.3", port=relay.port) as good,
        dns_server(ZONE) as server,
    ):
        relay.set({"default_transport": f"smtp:[127.0.0.3]:{relay.port}"})
        (home / "gw").mkdir()
        gateway = Gateway(home / "gw")
        gateway.configure(
            delivery="smtp:",
            tables=f"""
smtp_tcp_port = {relay.port}
smtp_mx_refuse_addresses = []
[smtpgw.transport]
"example.net" = "maildir:{gateway.mail}"
"ours.example" = "smtp:ours.example:{gateway.port}"
[smtpgw.dns]
nameservers = ["127.0.0.1:{server.port}"]
query_timeout = 2
""",
        )
        try:
            yield Town(gateway.start(), server, busy, good, relay)
        finally:
            gateway.kill()


def test_dead_then_busy_then_good(town: Town) -> None:
    queue_id = town.send("u@example.org")
    line = town.outcome(queue_id)
    assert (line["outcome"], line["destination"]) == ("delivered", "smtp:example.org")
    (mail,) = until(lambda: town.taken(b"to u@example.org"))
    assert BODY.replace(b"\r\n", b"\n") in mail
    tried = town.gateway.events("host", queue_id=queue_id)
    hosts = [each["host"].partition("[")[0] for each in tried]
    assert hosts == ["dead.example.org", "busy.example.org"]
    assert town.busy.mails() == []


def test_a_domain_without_mail_exchangers_is_its_own(town: Town) -> None:
    """Postfix takes it, and passes it on."""
    town.send("v@example.com")
    (mail,) = until(lambda: town.taken(b"to v@example.com"))
    assert b"by postfix.example.org (Postfix)" in mail
    assert BODY.replace(b"\r\n", b"\n") in mail
    assert town.postfix.troubles() == []


@pytest.mark.parametrize(
    ("recipient", "status", "words"),
    [
        ("u@nowhere.example", "5.4.4", "Host or domain name not found"),
        ("u@null.example", "5.1.10", "does not accept mail"),
        ("u@ours.example", "5.4.6", "loops back to myself"),
    ],
)
def test_what_cannot_be_comes_back(town: Town, recipient: str, status: str, words: str) -> None:
    line = town.outcome(town.send(recipient))
    assert (line["outcome"], line["status"]) == ("failed", status)
    assert words in str(line["reason"])
    reports = until(
        lambda: [each for each in town.gateway.delivered("u@example.net") if words.encode() in each]
    )
    assert f"Final-Recipient: rfc822; {recipient}\n".encode() in reports[0]


def test_a_dead_name_server_bounces_nothing(town: Town) -> None:
    town.dns.faults["late.example"] = faulty.SILENT
    line = town.outcome(town.send("u@late.example"))
    assert (line["outcome"], line["status"]) == ("deferred", "4.4.3")
    assert line["seconds"] < 15


def test_check_tells_where_mail_would_go(town: Town, tmp_path: Path) -> None:
    """`smtpgw check` asks the same name server, and speaks to the first host."""
    other = Gateway(tmp_path)
    other.configure(
        delivery=f"smtp:example.org:{town.postfix.port}",
        tables=f"""
smtp_mx_refuse_addresses = []
[smtpgw.transport]
"a.example" = "smtp:nowhere.example"
"b.example" = "smtp:"
"c.example" = "smtp:[127.0.0.3]:{town.postfix.port}"
[smtpgw.dns]
nameservers = ["127.0.0.1:{town.dns.port}"]
""",
    )
    command = [sys.executable, "-m", "smtpgw", "check", "-c", str(other.file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    findings = json.loads(done.stdout)["findings"]
    found = {each["subject"]: (each["level"], each["detail"]) for each in findings}
    assert found["delivery smtp:nowhere.example"][0] == "error"
    assert found["delivery smtp:"][0] == "ok"
    level, words = found[f"delivery smtp:[127.0.0.3]:{town.postfix.port}"]
    assert (level, "220 " in words) == ("ok", True)
    level, words = found[f"delivery smtp:example.org:{town.postfix.port}"]
    assert (level, "dead.example.org[127.0.0.4]" in words) == ("warning", True)
