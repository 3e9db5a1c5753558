"""Never an open relay: the classic forms, over the wire, against the policy."""

from __future__ import annotations

import pytest

from milterd.core.mail import Client as Peer
from milterd.core.mail import Direction, Family
from smtpgw.address.path import NULL, Path, PathError, parse_path
from smtpgw.policy.relay import RELAY_DENIED, RelayOptions, RelayPolicy
from tests.edge.harness import Ledger, Server

STRANGERS = RelayOptions(
    mynetworks=("192.0.2.0/24", "[2001:db8::]/32"),
    mydestination=("local.example", "Mixed.Example."),
    relay_domains=("relay.example", ".below.example", "bücher.example"),
    local_addresses=("192.0.2.25",),
)

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
]


@pytest.mark.parametrize(("sender", "recipient"), FORMS)
def test_nothing_leaves_for_a_foreign_domain(sender: bytes, recipient: bytes) -> None:
    """B08-B11."""
    ledger = Ledger(policy=RelayPolicy(STRANGERS))
    with Server(ledger=ledger) as server, server.client() as client:
        client.send(b"MAIL FROM:" + sender + b"\r\n")
        client.reply()
        client.send(b"RCPT TO:<" + recipient + b">\r\n")
        code, text = client.reply()
        assert code in (501, 503, 550)
        if code == 550:
            assert text == f"{RELAY_DENIED}\r\n"
        client.send(b"DATA\r\n")
        assert client.reply()[0] in (503, 554)
        assert server.accepted == []


@pytest.mark.parametrize(
    "recipient",
    [
        b"u@local.example", b"u@LOCAL.EXAMPLE", b"u@local.example.", b"u@mixed.example",
        b"u@relay.example", b"u@a.below.example", b"u@[192.0.2.25]", b"postmaster", b"PostMaster",
        b"victim%foreign.example@local.example", b"foreign.example!victim@local.example",
        b'"victim@foreign.example"@local.example', b"u@xn--bcher-kva.example",
        b"@foreign.example:u@local.example",
    ],
)  # fmt: skip
def test_our_own_is_taken_from_anybody_and_its_local_part_left_alone(recipient: bytes) -> None:
    path, _ = parse_path(b"<" + recipient + b">")
    stranger = Peer(family=Family.INET, address=b"203.0.113.9")
    assert RelayPolicy(STRANGERS).check(stranger, path) is None
    assert path.address == recipient.rpartition(b":")[2].removesuffix(b".")


def test_a_u_label_is_its_a_label() -> None:
    path, _ = parse_path("<u@BÜCHER.example>".encode(), utf8=True)
    assert RelayPolicy(STRANGERS).ours(path)


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
    policy, foreign = RelayPolicy(STRANGERS), Path(b"u", b"foreign.example")
    assert policy.trusted(client) is trusted
    assert policy.check(client, foreign) == (None if trusted else RELAY_DENIED)
    assert policy.direction(client) is (Direction.ORIGINATING if trusted else Direction.INBOUND)


def test_who_is_authenticated_may_relay() -> None:
    policy, stranger = RelayPolicy(STRANGERS), Peer(family=Family.INET, address=b"203.0.113.9")
    assert policy.check(stranger, Path(b"u", b"foreign.example"), authenticated=True) is None
    assert policy.direction(stranger, authenticated=True) is Direction.ORIGINATING


def test_without_domains_only_our_own_may_send() -> None:
    policy = RelayPolicy(RelayOptions())
    stranger = Peer(family=Family.INET, address=b"203.0.113.9")
    assert policy.check(stranger, Path(b"u", b"")) is None  # postmaster, by the parser's rule
    assert policy.check(stranger, Path(b"u", b"a.example")) == RELAY_DENIED
    assert not policy.ours(NULL)


def test_a_bad_network_is_told() -> None:
    with pytest.raises(ValueError, match="host bits"):
        RelayPolicy(RelayOptions(mynetworks=("192.0.2.1/24",)))


def test_the_parser_knows_only_postmaster_alone() -> None:
    with pytest.raises(PathError):
        parse_path(b"<u>")
