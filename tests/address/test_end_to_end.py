"""The same mails through the running gateway and through Debian's Postfix, by the same made-up
rules, into a sink each: the same clients are refused, and the same envelopes arrive.

GATEPOST_ENVELOPES is how many configurations are made up; the seed is printed.
"""

from __future__ import annotations

import os
import random
import re
import smtplib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.address.generated import Configuration, configuration
from tests.address.oracle import told
from tests.gateway.gateway import Gateway, until
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory
from tests.peers.smtp_sink import SmtpSink, smtp_sink

COUNT = int(os.environ.get("GATEPOST_ENVELOPES", "2"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261121"))
MAILS = 15
USERS = ("u", "u+ext", "v", "w", "owner-list", "list", "U", "a b", "v-1", "root", "list-request")
DOMAINS = ("local.example", "va.example", "x.example", "a.x.example", "vm.example", "relay.example")
ALIASES = "inline:{ {list = u@x.example, w} {owner-list = v@x.example} {w = \\w, u} root=w }"
pytestmark = [
    pytest.mark.xdist_group("addresses"), pytest.mark.timeout(120 + 60 * COUNT),
]  # fmt: skip
Envelopes = Counter[tuple[str, str]]
Checked = Callable[[str, object], None]


def given_for(dice: random.Random) -> Configuration:
    """One whose mail all goes to a sink, and whose addresses a plain sink takes."""
    given = configuration(dice)
    for name in ("transport_maps", "relocated_maps"):
        given.tables.pop(name, None)
        given.specs.pop(name, None)
    for name in tuple(given.tables):
        if name.startswith("sender_dependent"):
            del given.tables[name]
    for name in tuple(given.specs):
        if name.startswith("sender_dependent"):
            del given.specs[name]
    return given


def to_sink(given: Configuration, port: int) -> Configuration:
    """The same with every transport leading there."""
    sink = f"smtp:[127.0.0.1]:{port}"
    main = given.main | {
        "default_transport": sink, "relay_transport": sink, "virtual_transport": sink,
        "local_transport": "local", "mailbox_transport": sink, "relayhost": "",
        "alias_maps": ALIASES,
    }  # fmt: skip
    return Configuration(main, given.tables, given.specs)


@pytest.fixture
def their() -> Iterator[tuple[Postfix, SmtpSink]]:
    """A Postfix and its sink."""
    options = {
        "smtpd_error_sleep_time": "0", "smtpd_hard_error_limit": "1000",
        "smtpd_recipient_restrictions": "permit_mynetworks", "enable_original_recipient": "no",
    }  # fmt: skip
    with directory("sink") as home, smtp_sink(home) as sink, postfix(options) as peer:
        yield peer, sink


def envelopes(sink: SmtpSink) -> dict[str, Envelopes]:
    """Sender and recipient of all that arrived, by the mail that it was or came of.  How often
    a bounce is told is each server's own affair."""
    found: dict[str, Envelopes] = {}
    for mail in sink.mails():
        name = re.search(rb"case-\d+-\d+", mail)
        assert name, mail
        sender = re.search(rb"(?m)^X-Mail-Args: <(.*?)>(?: |$)", mail)
        assert sender, mail
        for each in re.findall(rb"(?m)^X-Rcpt-Args: <(.*)>(?: .*)?$", mail):
            pair = sender[1].decode(), each.decode()
            counted = found.setdefault(name[0].decode(), Counter())
            counted[pair] = counted[pair] + 1 if sender[1] else 1
    return found


def sent(port: int, mails: Sequence[tuple[str, str, str]]) -> list[int]:
    """The class of the answer to each."""
    said = []
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("client.example")
        for name, sender, recipient in mails:
            code = client.docmd("MAIL", f"FROM:<{sender}>")[0]
            code = client.docmd("RCPT", f"TO:<{recipient}>")[0] if code == 250 else code
            if code == 250:
                client.docmd("DATA")
                client.send(f"Subject: {name}\r\n\r\n{name}\r\n.\r\n".encode())
                code = client.getreply()[0]
            client.docmd("RSET")
            said.append(code // 100)
    return said


def gateway(place: Path, given: Configuration) -> Gateway:
    """It runs by these rules."""
    place.mkdir()
    made = Gateway(place)
    made.file.write_text(
        given.toml(place)
        + f"""
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{made.port}"
[smtpgw.queue]
directory = "{made.queue}"
[smtpgw.dns]
nameservers = ["127.0.0.1:1"]
[log]
format = "json"
[metrics]
smtpgw = "127.0.0.1:{made.metrics_port}"
"""
    )
    return made


def waiting(made: Gateway) -> str:
    command = [sys.executable, "-m", "smtpgw", "queue", "list", "--json", "-c", str(made.file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def mails_of(dice: random.Random, number: int) -> list[tuple[str, str, str]]:
    def address() -> str:
        user = dice.choice(USERS)
        return (
            f'"{user}"@{dice.choice(DOMAINS)}' if " " in user else f"{user}@{dice.choice(DOMAINS)}"
        )

    return [
        (f"case-{number}-{at}", dice.choice(("", address(), address())), address())
        for at in range(MAILS)
    ]


def difference(found: dict[str, Envelopes], expected: dict[str, Envelopes]) -> list[object]:
    """The mails whose envelopes are not the same: ours, then theirs."""
    names = sorted({*found, *expected})
    return [
        (name, found.get(name), expected.get(name))
        for name in names
        if found.get(name) != expected.get(name)
    ]


def delivered(made: Gateway, sink: SmtpSink, expected: dict[str, Envelopes], about: object) -> None:
    """The gateway sends what is expected, and has nothing left then."""
    try:
        until(lambda: envelopes(sink) == expected)
        until(lambda: not waiting(made).strip())
    except AssertionError:
        assert not difference(envelopes(sink), expected), (SEED, about)
        raise AssertionError((SEED, about, waiting(made))) from None
    assert envelopes(sink) == expected, (SEED, about)


def test_the_same_envelopes_arrive(
    their: tuple[Postfix, SmtpSink], tmp_path: Path, record_property: Checked
) -> None:
    peer, their_sink = their
    dice, arrived, refused = random.Random(SEED), 0, 0
    for number in range(COUNT):
        given, mails = given_for(dice), mails_of(dice, number)
        told(peer, to_sink(given, their_sink.port), number)
        theirs = sent(peer.port, mails)
        until(lambda: not peer.command("postqueue", "-j"), what="Postfix has sent it all")
        begin = f"case-{number}-"
        expected = {k: v for k, v in envelopes(their_sink).items() if k.startswith(begin)}
        with directory("sink") as home, smtp_sink(home) as sink:
            made = gateway(tmp_path / f"gateway{number}", to_sink(given, sink.port))
            try:
                ours = sent(made.start().port, mails)
                assert ours == theirs, (SEED, number, mails, given)
                delivered(made, sink, expected, (mails, given))
            finally:
                made.kill()
        arrived += sum(sum(each.values()) for each in expected.values())
        refused += sum(each != 2 for each in ours)
    record_property(
        "measured",
        f"seed {SEED}: {COUNT} configurations, {COUNT * MAILS} mails, {arrived} envelopes arrived "
        f"as from Postfix, {refused} refused as by Postfix",
    )
