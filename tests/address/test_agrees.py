"""The address path against Debian's Postfix: the same class, transport, next hop and recipient
as its trivial-rewrite, the same sender and recipients as its cleanup queues.

GATEPOST_ADDRESSES is how many configurations are made up; the seed is printed.
Where Postfix 3.7 differs from its own manual page we follow the page: a result of virtual(5)
that begins with `@domain` may be followed by other addresses; Postfix makes one address of all.
"""

from __future__ import annotations

import asyncio
import os
import random
import smtplib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from milterd.core.mail import join_header, parse_message
from smtpgw.address import form
from smtpgw.address.virtual import Unreasonable
from tests.address.generated import DOMAINS, Configuration, configuration, internal_address
from tests.address.oracle import Case, Queued, addresses, ask, queued, told
from tests.peers.postfix import Postfix

COUNT = int(os.environ.get("GATEPOST_ADDRESSES", "2"))
SEED = int(os.environ.get("GATEPOST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
ASKED = 80
"""Addresses for each configuration."""
CLASSES = {
    256: "local", 512: "virtual alias", 1024: "virtual mailbox", 2048: "relay", 4096: "default",
}  # fmt: skip
ROUTED, WRONG = 2, 4
PLAIN = ("u", "u+ext", "v", "w", "u+a+b", "owner-list", "list-request", "U", "a b", "v-1", "x")
pytestmark = pytest.mark.xdist_group("addresses")


NEAR = ("local.example", "va.example", "x.example", "a.x.example", "LOCAL.Example")
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


FIELDS = (b"From", b"Sender", b"Reply-To", b"To", b"Cc", b"Resent-From", b"Resent-To")


def header(dice: random.Random) -> bytes:
    """Some fields with some addresses, written in the ways that people write them."""
    lines = []
    for name in FIELDS:
        if dice.random() < 0.5:
            continue
        those = []
        for _ in range(dice.choice((1, 1, 2, 3))):
            address = f"{dice.choice(PLAIN)}@{dice.choice(NEAR)}".encode()
            written = form.external(dice.choice((address, address, b"u", b"v@host")))
            those.append(
                dice.choice((b"%b", b"<%b>", b'"A, B" <%b> (c)', b"Jo\r\n\t<%b>")) % written
            )
        lines.append(name + b": " + b", ".join(those) + b"\r\n")
    return b"".join([*lines, b"Subject: x\r\n"])


async def rewritten(given: Configuration, peer: Postfix, case: Case) -> Queued:
    """The mail as cleanup(8) would queue it."""
    rewriter = given.rewriter(peer.config)
    envelope = given.envelope(case.sender, case.recipient)
    new = (await rewriter.envelope(envelope)).envelope
    fields = await rewriter.headers(parse_message(case.header + b"\r\n").headers, local=True)
    return Queued(
        form.internal(new.sender),
        sorted(form.internal(each.address) for each in new.recipients),
        addresses(join_header(fields), FIELDS),
    )


def test_mails_are_rewritten_as_postfix_does(peer: Postfix, record_property: Checked) -> None:
    dice, asked, refused = random.Random(SEED + 1), 0, 0
    for number in range(COUNT):
        given = configuration(dice)
        told(peer, given, 20_000 + number)

        def address() -> bytes:
            return f"{dice.choice(PLAIN)}@{dice.choice(NEAR)}".encode()

        cases = [
            Case(dice.choice((b"", address(), address())), address(), header(dice))
            for _ in range(ASKED // 2)
        ]
        theirs = queued(peer, cases, FIELDS)
        for at, case in enumerate(cases):
            asked += 1
            try:
                ours = asyncio.run(rewritten(given, peer, case))
            except Unreasonable:
                refused += 1
                assert at not in theirs, (SEED, case, given)
            else:
                # Postfix adds fields that are missing.
                found = theirs[at]
                there = {name: found.fields.get(name, []) for name in ours.fields}
                assert ours == replace(found, fields=there), (SEED, case, given)
    record_property(
        "measured",
        f"seed {SEED}: {COUNT} configurations, {asked} mails as Postfix queues them, "
        f"{refused} of them refused by both",
    )
