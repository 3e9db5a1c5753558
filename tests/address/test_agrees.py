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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from milterd.core.mail import join_header, parse_message
from smtpgw.address import form
from smtpgw.address.virtual import Unreasonable
from smtpgw.addresses import Addresses
from tests.address.generated import (
    CHOICES,
    DEFAULT,
    DOMAINS,
    HOST,
    RESULTS,
    Configuration,
    configuration,
    internal_address,
)
from tests.address.oracle import LISTED, Asking, Case, Queued, addresses, queued, told
from tests.peers.postfix import Postfix

COUNT = int(os.environ.get("GATEPOST_ADDRESSES", "3"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261122"))
ASKED = 40
"""Addresses, recipients and mails for each configuration."""
MOST = 20
"""Differences that are shown; then it ends."""
CLASSES = {
    256: "local", 512: "virtual alias", 1024: "virtual mailbox", 2048: "relay", 4096: "default",
}  # fmt: skip
ROUTED, WRONG = 2, 4
PLAIN = (
    "u", "u+ext", "v", "w", "u+a+b", "owner-list", "list-request", "U", "a b", "v-1", "x", "ü",
    "root",
)  # fmt: skip
SENDERS = (b"s@x.example", b"", b"s@local.example", b"z@z.test", b"s+e@a.x.example")
pytestmark = [
    pytest.mark.xdist_group("addresses"), pytest.mark.timeout(120 + 4 * COUNT),
]  # fmt: skip


NEAR = (
    "local.example", "va.example", "x.example", "a.x.example", "LOCAL.Example", "bücher.example",
    "vm.example",
)  # fmt: skip
Checked = Callable[[str, object], None]


@dataclass
class Differences:
    """What Postfix and we disagree about, and how often we were compared."""

    count: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def compare(self, kind: str, ours: object, theirs: object, *about: object) -> None:
        """Keep it if it is one."""
        self.count[kind] += 1
        if ours != theirs:
            self.found.append(f"{kind} {about}\n  ours   {ours}\n  theirs {theirs}")

    def told(self, given: Configuration, since: int) -> None:
        """Say of which configuration they are."""
        if len(self.found) > since:
            self.found.append(f"  with {given}")


def test_defaults_are_those_of_postfix(peer: Postfix, tmp_path: Path) -> None:
    """What a setting that is not there stands for."""
    given = Configuration(dict.fromkeys(CHOICES, DEFAULT))
    ours = given.addresses(peer.config)
    settings = given.settings(peer.config)
    names = sorted({*CHOICES, *RESULTS})
    (tmp_path / "main.cf").write_text(f"compatibility_level = 3.6\nmyhostname = {HOST}\n")
    lines = replace(peer, config=tmp_path).command("postconf", "-x", *names).splitlines()
    said = {each.partition(" =")[0]: each.partition(" =")[2] for each in lines}
    assert sorted(said) == names

    def words(text: str) -> list[str]:
        return text.replace(",", " ").split()

    differ = {each for each in names if words(settings.expanded(each)) != words(said[each])}
    # docs/addresses.md says why: whom we know is not passwd(5) of the machine; a transport that
    # is not given is delivery.default, or one without the next hop that ours have no use for.
    assert differ == {
        "local_recipient_maps", "local_transport", "virtual_transport", "relay_transport",
        "default_transport",
    }  # fmt: skip
    assert ours.resolver.options.local_transport == b"local"
    assert ours.resolver.options.virtual_transport == b"virtual"
    assert ours.resolver.options.relay_transport == b"relay"
    assert ours.resolver.options.default_transport == b"smtp"


def test_the_whole_path_is_postfixs(peer: Postfix, record_property: Checked) -> None:
    """Made-up settings: where addresses go, who is known, what mails become and where each
    recipient of them goes."""
    dice, found, heard = random.Random(SEED), Differences(), Counter[int]()
    with asyncio.Runner() as runner:
        for number in range(COUNT):
            given = configuration(dice)
            told(peer, given, number)
            ours, since = given.addresses(peer.config), len(found.found)
            with Asking(peer) as asking:
                for address, sender in _asked(dice):
                    runner.run(_resolved(asking, ours, address, sender, found))
                _standard(asking, ours, dice, found)
                _who_is_known(peer, runner, ours, dice, found, heard)
                runner.run(_rewritten(peer, asking, ours, dice, found))
            found.told(given, since)
            if len(found.found) > MOST:
                break
    counts = ", ".join(f"{count} {kind}" for kind, count in found.count.items())
    record_property(
        "measured", f"seed {SEED}: {COUNT} configurations, as Postfix: {counts}; RCPT {dict(heard)}"
    )
    assert not found.found, "\n".join([f"seed {SEED}", *found.found])


def _asked(dice: random.Random) -> Iterator[tuple[bytes, bytes]]:
    for _ in range(ASKED):
        yield internal_address(dice), dice.choice(SENDERS)


async def _resolved(
    asking: Asking, ours: Addresses, address: bytes, sender: bytes, found: Differences
) -> None:
    said = asking.ask(request=b"resolve", sender=sender, address=address)
    _, transport, nexthop, recipient, flags = said
    resolved = await ours.resolver.resolve(address, sender)
    wrong = bool(int(flags) & WRONG)
    if wrong or resolved.wrong:
        found.compare("addresses", resolved.wrong, wrong, address, sender)
        return
    mine = (
        resolved.recipient, resolved.address_class.value, resolved.transport, resolved.nexthop,
        resolved.routed,
    )  # fmt: skip
    kind = CLASSES[int(flags) & 0x1F00]
    theirs = (recipient, kind, transport, nexthop, bool(int(flags) & ROUTED))
    found.compare("addresses", mine, theirs, address, sender)


def _standard(asking: Asking, ours: Addresses, dice: random.Random, found: Differences) -> None:
    for _ in range(ASKED):
        address = form.external(internal_address(dice))
        _, theirs = asking.ask(request=b"rewrite", rule=b"local", address=address)
        mine = ours.standard.local(form.internal(address))
        found.compare("standard forms", mine, form.internal(theirs), address)


def _who_is_known(
    peer: Postfix,
    runner: asyncio.Runner,
    ours: Addresses,
    dice: random.Random,
    found: Differences,
    heard: Counter[int],
) -> None:
    with smtplib.SMTP("127.0.0.1", peer.port) as client:
        client.command_encoding = "utf-8"
        client.ehlo(LISTED)
        client.docmd("MAIL", "FROM:<s@z.test> SMTPUTF8")
        for _ in range(ASKED):
            address = f"{dice.choice(PLAIN)}@{dice.choice(DOMAINS)}".encode()
            code, text = client.docmd("RCPT", f"TO:<{form.external(address).decode()}>")
            resolved = runner.run(ours.resolver.resolve(address, b"s@z.test"))
            unknown = runner.run(ours.recipients.check(resolved))
            heard[code] += 1
            mine = (250, b"2.1.5 Ok")
            if unknown is not None:
                refused = f"<{address.decode()}>: Recipient address rejected: {unknown.text}"
                mine = (unknown.code, f"{unknown.enhanced} {refused}".encode())
            found.compare("recipients at RCPT", mine, (code, text), address)


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


async def rewritten(ours: Addresses, case: Case) -> Queued:
    """The mail as cleanup(8) would queue it."""
    envelope = Configuration.envelope(case.sender, case.recipient)
    new = (await ours.rewriter.envelope(envelope)).envelope
    fields = await ours.rewriter.headers(parse_message(case.header + b"\r\n").headers, local=True)
    return Queued(
        form.internal(new.sender),
        sorted(form.internal(each.address) for each in new.recipients),
        addresses(join_header(fields), FIELDS),
    )


async def _rewritten(
    peer: Postfix, asking: Asking, ours: Addresses, dice: random.Random, found: Differences
) -> None:
    def address() -> bytes:
        return f"{dice.choice(PLAIN)}@{dice.choice(NEAR)}".encode()

    cases = [
        Case(dice.choice((b"", address(), address())), address(), header(dice))
        for _ in range(ASKED)
    ]
    theirs = queued(peer, cases, FIELDS)
    for at, case in enumerate(cases):
        there = theirs.get(at)
        try:
            mine = await rewritten(ours, case)
        except Unreasonable:
            found.compare("mails that are refused", None, there, case)
            continue
        if there is not None:
            # Postfix adds fields that are missing.
            fields = {name: there.fields.get(name, []) for name in mine.fields}
            there = replace(there, fields=fields)
            options = ours.rewriter.options
            copies = options.sender_bcc_maps or options.recipient_bcc_maps or options.always_bcc
            if copies and _folded(there) == _folded(mine):
                # Of a recipient and its blind copy Postfix keeps the copy (docs/addresses.md).
                there = replace(there, recipients=mine.recipients)
        found.compare("mails", mine, there, case)
        for each in mine.recipients:
            await _resolved(asking, ours, each, mine.sender, found)


def _folded(mail: Queued) -> list[bytes]:
    return sorted(each.lower() for each in mail.recipients)
