"""The address path against Debian's Postfix: the same class, transport, next hop and recipient
as its trivial-rewrite, the same sender and recipients as its cleanup queues.

GATEPOST_ADDRESSES is how many configurations are made up; the seed is printed.
Where Postfix 3.7 differs from its own manual page we follow the page: a result of virtual(5)
that begins with `@domain` may be followed by other addresses; Postfix makes one address of all.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import smtplib
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from smtpgw.address import form
from smtpgw.address.virtual import Unreasonable
from tests.address.generated import DOMAINS, Configuration, configuration, internal_address
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import wait_for

COUNT = int(os.environ.get("GATEPOST_ADDRESSES", "2"))
SEED = int(os.environ.get("GATEPOST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
ASKED = 80
"""Addresses for each configuration."""
CLASSES = {
    256: "local", 512: "virtual alias", 1024: "virtual mailbox", 2048: "relay", 4096: "default",
}  # fmt: skip
ROUTED, WRONG = 2, 4
PLAIN = ("u", "u+ext", "v", "w", "u+a+b", "owner-list", "list-request", "U", "a b", "v-1", "x")
HELD = {
    "smtpd_client_restrictions": "check_client_access static:HOLD",
    "smtpd_reject_unlisted_recipient": "no",
    "smtpd_recipient_restrictions": "permit_mynetworks",
    "smtpd_hard_error_limit": "1000",
    "smtpd_error_sleep_time": "0",
    "enable_original_recipient": "no",
    "masquerade_classes": "envelope_sender, envelope_recipient",
}

pytestmark = pytest.mark.xdist_group("addresses")


@pytest.fixture(scope="module")
def peer() -> Iterator[Postfix]:
    with postfix(HELD) as found:
        yield found


def ask(peer: Postfix, **request: bytes) -> list[bytes]:
    """What trivial-rewrite answers: the values, in their order."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(peer.queue / "private/rewrite"))
        pairs = b"".join(b"%b\0%b\0" % (k.encode(), v) for k, v in request.items())
        asking.sendall(pairs + b"\0")
        said = b""
        # First it says which protocol it speaks, then it answers.
        while said.count(b"\0\0") < 2 or not said.endswith(b"\0\0"):
            said += asking.recv(65536) or b"\0\0\0\0"
    return said.split(b"\0\0", 1)[1].removesuffix(b"\0\0").split(b"\0")[1::2]


def told(peer: Postfix, given: Configuration, number: int) -> None:
    """Postfix works by this configuration; a domain of its own shows that it does."""
    mark = f"marker{number}.test"
    given.main["virtual_mailbox_domains"] += f" {mark}"
    peer.set(given.write(peer.config))
    address = f"u@{mark}".encode()

    def known() -> bool:
        try:
            said = ask(peer, request=b"resolve", sender=b"", address=address)
        except ConnectionError:
            return False  # the one of before has just ended
        return int(said[-1]) & 1024 == 1024

    wait_for(known, "Postfix works by its new configuration")


Checked = Callable[[str, object], None]


def test_addresses_go_where_postfix_sends_them(peer: Postfix, record_property: Checked) -> None:
    dice, asked = random.Random(SEED), 0
    for number in range(COUNT):
        given = configuration(dice)
        told(peer, given, number)
        resolver = given.resolver(peer.config)
        for _ in range(ASKED):
            address = internal_address(dice)
            sender = dice.choice((b"s@x.example", b"", b"s@local.example", b"z@z.test"))
            said = ask(peer, request=b"resolve", sender=sender, address=address)
            _, transport, nexthop, recipient, flags = said
            found = asyncio.run(resolver.resolve(address, sender))
            asked += 1
            assert found.wrong == bool(int(flags) & WRONG), (SEED, address, given)
            if found.wrong:
                continue
            ours = (
                found.recipient, found.address_class.value, found.transport, found.nexthop,
                found.routed,
            )  # fmt: skip
            kind = CLASSES[int(flags) & 0x1F00]
            theirs = (recipient, kind, transport, nexthop, bool(int(flags) & ROUTED))
            assert ours == theirs, (SEED, address, sender, given)
    record_property(
        "measured", f"seed {SEED}: {COUNT} configurations, {asked} addresses resolved as Postfix"
    )


def test_addresses_are_put_in_standard_form_as_postfix_does(peer: Postfix) -> None:
    dice = random.Random(SEED)
    given = configuration(dice)
    told(peer, given, 10_000)
    standard = given.standard()
    for _ in range(ASKED):
        address = form.external(internal_address(dice))
        _, theirs = ask(peer, request=b"rewrite", rule=b"local", address=address)
        assert standard.local(form.internal(address)) == form.internal(theirs), (SEED, address)


def test_who_is_unknown_hears_what_postfix_says(peer: Postfix, record_property: Checked) -> None:
    dice, heard = random.Random(SEED + 2), Counter[int]()
    for number in range(COUNT):
        given = configuration(dice)
        given.main["smtpd_reject_unlisted_recipient"] = "yes"
        told(peer, given, 30_000 + number)
        resolver, known = given.resolver(peer.config), given.known(peer.config)
        with smtplib.SMTP("127.0.0.1", peer.port) as client:
            client.ehlo("client.example")
            client.docmd("MAIL", "FROM:<s@z.test>")
            for _ in range(ASKED // 2):
                address = f"{dice.choice(PLAIN)}@{dice.choice(DOMAINS)}".encode()
                code, text = client.docmd("RCPT", f"TO:<{form.external(address).decode()}>")
                resolved = asyncio.run(resolver.resolve(address, b"s@z.test"))
                unknown = asyncio.run(known.check(resolved))
                heard[code] += 1
                ours = (250, b"2.1.5 Ok")
                if unknown is not None:
                    refused = f"<{address.decode()}>: Recipient address rejected: {unknown.text}"
                    ours = (unknown.code, f"{unknown.enhanced} {refused}".encode())
                assert ours == (code, text), (SEED, address, given)
    peer.set({"smtpd_reject_unlisted_recipient": "no"})
    record_property("measured", f"seed {SEED}: {COUNT} configurations, RCPT heard {dict(heard)}")


async def rewritten(
    given: Configuration, peer: Postfix, sender: bytes, recipient: bytes
) -> tuple[bytes, list[bytes]]:
    """The envelope as cleanup(8) would queue it; the recipients sorted, each once."""
    for name in ("sender_canonical_maps", "canonical_maps"):
        table = given.canonical(name, peer.config)
        if table is not None and sender:
            sender = await table.rewrite(sender)
    for name in ("recipient_canonical_maps", "canonical_maps"):
        table = given.canonical(name, peer.config)
        if table is not None:
            recipient = await table.rewrite(recipient)
    masquerade, virtual = given.masquerade(), given.virtual(peer.config)
    recipient = masquerade.rewrite(recipient)
    those = (recipient,) if virtual is None else await virtual.expand(recipient)
    once = {each.lower(): each for each in reversed(those)}
    return masquerade.rewrite(sender), sorted(once.values())


def queued(peer: Postfix, cases: list[tuple[bytes, bytes]]) -> dict[int, tuple[bytes, list[bytes]]]:
    """The envelopes of the mails that Postfix took, by the number of the case."""
    ids: dict[str, int] = {}
    with smtplib.SMTP("127.0.0.1", peer.port) as client:
        client.ehlo("client.example")
        for number, (sender, recipient) in enumerate(cases):
            client.docmd("MAIL", f"FROM:<{form.external(sender).decode()}>")
            client.docmd("RCPT", f"TO:<{form.external(recipient).decode()}>")
            if client.docmd("DATA")[0] != 354:
                client.docmd("RSET")
                continue
            client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            code, text = client.getreply()
            if code == 250:
                ids[re.sub(r".* as ", "", text.decode())] = number
    found = {}
    for line in peer.command("postqueue", "-j").splitlines():
        mail = json.loads(line)
        from_ = "" if mail["sender"] == "MAILER-DAEMON" else mail["sender"]
        those = sorted(form.internal(each["address"].encode()) for each in mail["recipients"])
        found[ids[mail["queue_id"]]] = (form.internal(from_.encode()), those)
    peer.command("postsuper", "-d", "ALL")
    return found


def test_envelopes_are_rewritten_as_postfix_does(peer: Postfix, record_property: Checked) -> None:
    dice, asked, refused = random.Random(SEED + 1), 0, 0
    domains = ("local.example", "va.example", "x.example", "a.x.example", "LOCAL.Example")
    for number in range(COUNT):
        given = configuration(dice)
        told(peer, given, 20_000 + number)

        def address() -> bytes:
            return f"{dice.choice(PLAIN)}@{dice.choice(domains)}".encode()

        cases = [(dice.choice((b"", address(), address())), address()) for _ in range(ASKED // 2)]
        theirs = queued(peer, cases)
        for at, (sender, recipient) in enumerate(cases):
            asked += 1
            try:
                ours = asyncio.run(rewritten(given, peer, sender, recipient))
            except Unreasonable:
                refused += 1
                assert at not in theirs, (SEED, sender, recipient, given)
            else:
                assert ours == theirs.get(at), (SEED, sender, recipient, given)
    record_property(
        "measured",
        f"seed {SEED}: {COUNT} configurations, {asked} envelopes as Postfix queues them, "
        f"{refused} of them refused by both",
    )
