"""Never an open relay: the classic forms, over the wire, against the policy."""

from __future__ import annotations

import asyncio
import re

import pytest

from milterd.base.toml_file import ConfigError
from milterd.core.mail import Client as Peer
from milterd.core.mail import Direction, Family
from smtpgw.address.path import Path, PathError, parse_path
from smtpgw.policy import relay
from tests.edge.harness import Ledger, Server
from tests.edge.policies import Policy

STRANGERS = """
[smtpgw]
myhostname = "mx.local.example"
mynetworks = ["192.0.2.0/24", "[2001:db8::]/32"]
mydestination = ["local.example", "Mixed.Example", "bücher.example"]
relay_domains = ["relay.example", ".below.example", "müller.example"]
parent_domain_matches_subdomains = []
local_addresses = ["192.0.2.25"]
proxy_interfaces = ["2001:db8::25"]
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:25"
[[smtpgw.listener]]
name = "submission"
address = "127.0.0.1:587"
profile = "submission"
"""


STRANGER = Peer(family=Family.INET, address=b"203.0.113.9")

FORMS = [
    (b"<>", b"victim@foreign.example"),
    (b"<spam@foreign.example>", b"victim@foreign.example"),
    (b"<postmaster@local.example>", b"victim@foreign.example"),
    (b"<spam@localhost>", b"victim@foreign.example"),
    (b"<spam>", b"victim@foreign.example"),
    (b"<spam@[192.0.2.25]>", b"victim@foreign.example"),
    (b"<spam@local.example>", b"victim%foreign.example@[127.0.0.1]"),
    (b"<spam@local.example>", b"victim%foreign.example@[192.0.2.26]"),
    (b"<spam@local.example>", b'"victim@foreign.example"'),
    (b"<spam@local.example>", b'"victim%foreign.example"'),
    (b"<spam@local.example>", b"victim@foreign.example@local.example"),
    (b"<spam@local.example>", b"victim@foreign.example@[192.0.2.25]"),
    (b"<spam@local.example>", b"@local.example:victim@foreign.example"),
    (b"<spam@local.example>", b"@[192.0.2.25]:victim@foreign.example"),
    (b"<spam@local.example>", b"foreign.example!victim"),
    (b"<spam@local.example>", b"foreign.example!victim@[127.0.0.1]"),
    (b"<spam@local.example>", b"victim@foreign.example."),
    (b"<spam@local.example>", b"victim@local.example.foreign.example"),
    (b"<spam@local.example>", b"victim@xlocal.example"),
    (b"<spam@local.example>", b"victim@local.example,foreign.example"),
    (b"<spam@local.example>", b"victim@foreign.example>,<u@local.example"),
    (b"<spam@local.example>", b"victim@[192.0.2.26]"),
    (b"<spam@local.example>", b"victim@[IPv6:::1]"),
    (b"<spam@local.example>", b"victim@192.0.2.25"),
    (b"<spam@local.example>", b"victim@127.0.0.1"),
    (b"<spam@local.example>", b"victim@localhost"),
    (b"<spam@local.example>", b"victim@below.example"),
    (b"<spam@local.example>", b"victim@foreign.example\0@local.example"),
    (b"<spam@local.example>", b"victim@foreign.example\r@local.example"),
    (b"<spam@local.example>", b"victim"),
    (b"<spam@local.example>", b"victim%foreign.example@local.example"),
    (b"<spam@local.example>", b"victim%foreign.example@[192.0.2.25]"),
    (b"<spam@local.example>", b"victim%foreign.example@relay.example"),
    (b"<spam@local.example>", b"foreign.example!victim@local.example"),
    (b"<spam@local.example>", b'"victim@foreign.example"@local.example'),
    (b"<spam@local.example>", b'"victim@foreign.example"@relay.example'),
    (b"<spam@local.example>", b"a%b%foreign.example@local.example"),
    (b"<spam@local.example>", b"postmaster@foreign.example"),
    (b"<spam@local.example>", b"victim@relay.example.foreign.example"),
    (b"<spam@local.example>", b"victim@sub.relay.example"),
]


@pytest.mark.parametrize(("sender", "recipient"), FORMS)
def test_nothing_leaves_for_a_foreign_domain(sender: bytes, recipient: bytes) -> None:
    """B08-B11."""
    ledger = Ledger(policy=Policy(STRANGERS).of)
    with Server(ledger=ledger) as server, server.client() as client:
        client.send(b"MAIL FROM:" + sender + b"\r\n")
        client.reply()
        client.send(b"RCPT TO:<" + recipient + b">\r\n")
        code, text = client.reply()
        assert code in (501, 503, 554)
        if code == 554:
            assert re.fullmatch(r"554 5\.7\.1 <[^\r\n]*>: Relay access denied\r\n", text), text
        client.send(b"DATA\r\n")
        assert client.reply()[0] in (503, 554)
        assert server.accepted == []


@pytest.mark.parametrize(
    "recipient",
    [
        b"u@local.example", b"u@LOCAL.EXAMPLE", b"u@local.example.", b"u@mixed.example",
        b"u@relay.example", b"u@a.below.example", b"u@[192.0.2.25]", b"postmaster", b"PostMaster",
        b"u@xn--bcher-kva.example", b"u@XN--Mller-KVA.example", b"u@[IPv6:2001:db8::25]",
        b"u@[ipv6:2001:DB8:0:0::25]", b"@foreign.example:u@local.example", b'"u"@local.example',
    ],
)  # fmt: skip
def test_our_own_is_taken_from_anybody_and_its_local_part_left_alone(recipient: bytes) -> None:
    ledger = Ledger(policy=Policy(STRANGERS).of)
    with Server(ledger=ledger) as server, server.client() as client:
        client.begin(recipient)
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        client.expect(250)
    (taken,) = ledger.accepted
    assert taken.recipients == [recipient.rpartition(b"example:")[2].removesuffix(b".")]


@pytest.mark.parametrize("domain", ["bücher.example", "BÜCHER.example", "müller.example"])
def test_a_u_label_is_its_a_label(domain: str) -> None:
    ledger = Ledger(policy=Policy(STRANGERS).of)
    with Server(ledger=ledger) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@example.com> SMTPUTF8", 250)
        client.command(f"RCPT TO:<u@{domain}>".encode(), 250)
        client.command(f"RCPT TO:<u@x{domain}>".encode(), 554, "5.7.1")


def test_a_sender_that_nobody_could_have_is_refused() -> None:
    ledger = Ledger(policy=Policy(STRANGERS).of)
    with Server(ledger=ledger) as server, server.client() as client:
        client.command(b"MAIL FROM:<-x@foreign.example>", 501, "5.1.7")
        client.command(b"MAIL FROM:<>", 250)
        client.command(b"RCPT TO:<-x@local.example>", 501, "5.1.3")


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        (Peer(family=Family.INET, address=b"192.0.2.77"), True),
        (Peer(family=Family.INET6, address=b"2001:db8::7"), True),
        (Peer(family=Family.INET6, address=b"::ffff:192.0.2.77"), True),
        (Peer(family=Family.UNIX), True),
        (Peer(family=Family.INET, address=b"127.0.0.1"), False),
        (Peer(family=Family.INET6, address=b"::1"), False),
        (Peer(family=Family.INET6, address=b"2001:db9::7"), False),
        (Peer(), False),
        (Peer(family=Family.INET, address=b"192.0.2.77 "), False),
    ],
)
def test_who_may_relay(client: Peer, trusted: bool) -> None:
    policy, foreign = Policy(STRANGERS), Path(b"u", b"foreign.example")
    denied = "" if trusted else str(relay.denied("u@foreign.example"))
    assert policy.refuses(client, foreign) == denied
    mynetworks = policy.plan.addresses.mynetworks
    assert asyncio.run(relay.trusted(client, mynetworks)) is trusted
    assert relay.direction(trusted) is (Direction.ORIGINATING if trusted else Direction.INBOUND)


def test_who_is_authenticated_may_relay() -> None:
    policy, foreign = Policy(STRANGERS), Path(b"u", b"foreign.example")
    assert policy.refuses(STRANGER, foreign, authenticated=True) == ""
    assert policy.refuses(STRANGER, foreign).startswith("554 ")


def test_strangers_have_no_business_at_a_submission_listener() -> None:
    policy = Policy(STRANGERS, "submission")
    assert policy.refuses(STRANGER, Path(b"u", b"local.example")).startswith("554 5.7.1 ")
    assert policy.refuses(STRANGER, Path(b"u", b"local.example"), authenticated=True) == ""
    assert policy.refuses(STRANGER, Path(b"postmaster", b"")) == ""


def test_without_domains_only_our_own_may_send() -> None:
    nothing = STRANGERS
    for key in ("mydestination", "relay_domains", "local_addresses", "proxy_interfaces"):
        nothing = re.sub(rf"^{key} = .*$", f"{key} = []", nothing, flags=re.MULTILINE)
    policy = Policy(nothing)
    assert policy.refuses(STRANGER, Path(b"postmaster", b"")) == ""
    for domain in (b"a.example", b"local.example", b"mx.local.example", b"[192.0.2.25]"):
        assert policy.refuses(STRANGER, Path(b"u", domain)).startswith("554 5.7.1 ")
    assert policy.refuses(Peer(family=Family.UNIX), Path(b"u", b"a.example")) == ""


def test_a_bad_network_is_told() -> None:
    with pytest.raises(ConfigError, match="host bits"):
        Policy(STRANGERS.replace("192.0.2.0/24", "192.0.2.1/24"))


def test_the_parser_knows_only_postmaster_alone() -> None:
    with pytest.raises(PathError):
        parse_path(b"<u>")
