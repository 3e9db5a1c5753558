"""What the running gateway makes of the addresses of a mail, before it is signed and queued."""

from __future__ import annotations

import asyncio
import contextlib
import email
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from milterd.core.mail import Client
from smtpgw.addresses import open_addresses
from smtpgw.config import load
from smtpgw.readdress import AddressRules
from tests.gateway.conftest import milter_table
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.gateway.test_sendmail import sendmail

SIGNED = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=x; h=From : to;\r\n\tbh=AA==; b=AA==\r\n"
)


def configure(gateway: Gateway, *lines: str, tables: str = "") -> Gateway:
    """Settings with all that these tests rewrite, and further lines."""
    texts = {
        "canonical": "old@example.net   New.Name@example.net\n",
        "virtual": "team@example.net   ann@example.net, bob@example.net\none@example.net ann\n"
        "crew@example.net kim@example.net, lea@example.net\nnews@example.net max\n"
        "kept@example.net one@held.example, two@held.example\n",
        "transport": "refused.example error:5.1.1 nobody\nheld.example hold:\n",
    }
    for name, text in texts.items():
        (gateway.place / name).write_text(text)
    own = (
        'myorigin = "example.net"',
        f'canonical_maps = ["hash:{gateway.place}/canonical"]',
        f'virtual_alias_maps = ["hash:{gateway.place}/virtual"]',
        "virtual_alias_domains = []",
        f'transport_maps = ["hash:{gateway.place}/transport"]',
        "smtpd_reject_unlisted_recipient = false",
    )
    gateway.configure("\n".join((*own, *lines)), tables=tables)
    return gateway


@contextlib.contextmanager
def started(configured: Callable[[Gateway], Gateway]) -> Iterator[Gateway]:
    """A gateway for many tests."""
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    one = configured(Gateway(place))
    try:
        yield one.start()
    finally:
        one.kill()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def shared() -> Iterator[Gateway]:
    """One gateway for all tests that need nothing else."""
    with started(configure) as one:
        yield one


def settled(gateway: Gateway) -> None:
    """Wait until nothing is under way, but for what is held."""

    def left() -> int:
        total = 0
        for each in gateway.queue.glob("*/queue.db"):
            with contextlib.closing(sqlite3.connect(f"file:{each}?mode=ro", uri=True)) as db:
                total += db.execute("SELECT count(*) FROM mail WHERE state IN (0, 1)").fetchone()[0]
        return total

    until(lambda: left() == 0, what="a queue with nothing under way")


def value(mail: bytes, name: str) -> str:
    """A field of a mail, as it stands there, on one line."""
    return re.sub(r"\r?\n", "", str(email.message_from_bytes(mail)[name]))


def reasons(gateway: Gateway, queue_id: str) -> list[dict[str, str]]:
    """The decisions that the log has of a mail."""
    gateway.told("message", queue_id=queue_id)  # the last line about it
    return [
        {**each["reason"], "source": each["filter"]}
        for each in gateway.events("decision", queue_id=queue_id)
    ]


def queue_id(answer: tuple[int, str]) -> str:
    assert answer[0] == 250, answer
    return answer[1].split()[-1]


def show(gateway: Gateway, mail: str) -> str:
    """What `smtpgw queue show` says."""
    command = [sys.executable, "-m", "smtpgw", "queue", "show", mail, "-c", str(gateway.file)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_envelope_and_header_of_our_own_clients_are_rewritten_and_the_reasons_told(
    shared: Gateway,
) -> None:
    gateway = shared
    message = (
        b'From: "Old, Name" <old@example.net>\r\nTo: old@example.net (me), other@example.org\r\n'
        b"Cc: bare\r\nSubject: old@example.net\r\n\r\nold@example.net\r\n"
    )
    answer = gateway.send(message, "old@example.net", ["old@example.net"])
    (got,) = gateway.delivered("New.Name@example.net")
    assert b"Return-Path: <New.Name@example.net>" in got
    assert value(got, "From") == '"Old, Name" <New.Name@example.net>'
    assert value(got, "To") == "New.Name@example.net (me), other@example.org"
    assert value(got, "Cc") == "bare@example.net"
    assert value(got, "Subject") == "old@example.net"
    assert got.endswith(b"\n\nold@example.net\n")
    told = [each for each in reasons(gateway, queue_id(answer)) if each["source"] == "rewrite"]
    assert {each["in"] for each in told} == {"header", "envelope"}
    canonical = [each for each in told if each["table"] == "canonical_maps"]
    assert {(each["from"], each["to"]) for each in canonical} == {
        ("old@example.net", "New.Name@example.net")
    }
    assert all(each["where"].endswith("canonical:1") for each in canonical)
    origin = [each for each in told if each["table"] == "standard form"]
    assert [(each["from"], each["to"]) for each in origin] == [("bare", "bare@example.net")]


def test_others_header_stays_to_the_octet_and_their_envelope_does_not(gateway: Gateway) -> None:
    configure(gateway, "local_header_rewrite_clients = []").start()
    header = b"From:  old@example.net\r\nTo: bare,\r\n\t old@example.net\r\nSubject: x\r\n"
    gateway.send(header + b"\r\nx\r\n", "a@example.org", ["old@example.net"])
    (got,) = gateway.delivered("New.Name@example.net")
    assert header.replace(b"\r\n", b"\n") in got


@pytest.mark.parametrize(
    ("clients", "address", "here"),
    [
        ("permit_inet_interfaces", b"127.0.0.1", True),
        ("permit_inet_interfaces", b"127.0.0.9", True),
        ("permit_inet_interfaces", b"::1", True),
        ("permit_inet_interfaces", b"::ffff:127.0.0.1", True),
        ("permit_inet_interfaces", b"192.0.2.1", False),
        ("permit_mynetworks", b"127.0.0.1", False),
        ("permit_mynetworks", b"192.0.2.1", True),
        ("permit_sasl_authenticated", b"127.0.0.1", False),
        ("check_address_map inline:{127.0.0.1=x}", b"127.0.0.1", True),
        ("check_address_map inline:{127.0.0.1=x}", b"192.0.2.1", False),
        ("permit_inet_interfaces", b"", False),
    ],
)
def test_whose_header_is_rewritten(
    gateway: Gateway, clients: str, address: bytes, here: bool
) -> None:
    words = ", ".join(f'"{each}"' for each in clients.split())
    networks = 'mynetworks = ["192.0.2.0/24"]'
    configure(gateway, f"local_header_rewrite_clients = [{words}]", networks)
    rules = AddressRules(open_addresses(load(gateway.file).smtpgw, structlog.get_logger()))
    client = Client(address=address)
    assert asyncio.run(rules.writes_here(client, authenticated=False)) is here
    signed_in = here or "sasl" in clients
    assert asyncio.run(rules.writes_here(client, authenticated=True)) is signed_in


def test_a_signed_field_stays(shared: Gateway) -> None:
    gateway = shared
    signed = SIGNED + b"From: old@example.net\r\nTo: old@example.net\r\n"
    gateway.send(signed + b"Cc: old@example.net\r\n\r\nx\r\n")
    (got,) = gateway.delivered()
    assert signed.replace(b"\r\n", b"\n") in got
    assert value(got, "Cc") == "New.Name@example.net"


def test_milters_see_the_new_header_and_the_recipients_that_the_client_named(
    gateway: Gateway, milter: Path
) -> None:
    configure(gateway, tables=milter_table(milter)).start()
    message = b"From: old@example.net\r\nSubject: seen\r\n\r\nx\r\n"
    gateway.send(message, recipients=["one@example.net", "bob@example.net"])
    (got,) = gateway.delivered("ann@example.net")
    assert value(got, "X-Seen-From") == "New.Name@example.net"
    assert value(got, "X-Seen-Recipients") == "<one@example.net> <bob@example.net>"
    # The milter took back a recipient by the name that it was given.
    assert value(got, "Subject") == "seen"
    assert not (gateway.mail / "bob@example.net").exists()


def test_a_recipient_without_domain_is_one_of_myorigin_and_the_trace_says_what_came(
    shared: Gateway,
) -> None:
    gateway = shared
    gateway.send(recipients=["postmaster"])
    (got,) = gateway.delivered("postmaster@example.net")
    assert b"for <postmaster>;" in got


def test_an_expanded_recipient_each_once_and_the_sender_hears_of_it(shared: Gateway) -> None:
    gateway = shared
    with gateway.client() as client:
        client.mail("back@example.net", ["ENVID=e1"])
        client.rcpt("crew@example.net", ["NOTIFY=SUCCESS"])
        client.rcpt("kim@example.net", ["NOTIFY=NEVER"])
        assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
    for each in ("kim", "lea"):
        gateway.delivered(f"{each}@example.net")
    (letter,) = gateway.delivered("back@example.net")
    assert b"Action: expanded" in letter
    assert b"Final-Recipient: rfc822; crew@example.net" in letter
    assert b"Original-Envelope-Id: e1" in letter
    settled(gateway)
    assert len(gateway.delivered("kim@example.net")) == 1
    assert len(gateway.delivered("back@example.net")) == 1


def test_blind_copies_and_none_of_our_own_mail(gateway: Gateway) -> None:
    configure(gateway, 'always_bcc = "archive"').start()
    gateway.send(sender="back@example.net", recipients=["nobody@refused.example"])
    (copy,) = gateway.delivered("archive@example.net")
    assert b"Return-Path: <back@example.net>" in copy
    (letter,) = gateway.delivered("back@example.net")
    assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
    settled(gateway)
    assert len(gateway.delivered("archive@example.net")) == 1


def test_a_notification_goes_where_the_tables_say(shared: Gateway) -> None:
    shared.send(sender="news@example.net", recipients=["nobody@refused.example"])
    (letter,) = shared.delivered("max@example.net")
    assert b"Final-Recipient: rfc822; nobody@refused.example" in letter


def test_tables_that_cannot_answer_or_never_end(gateway: Gateway) -> None:
    tables = (
        f'sender_canonical_maps = ["tcp:127.0.0.1:{gateway.port + 1}"]',
        "virtual_alias_expansion_limit = 1",
    )
    configure(gateway, *tables).start()
    code, text = gateway.send()
    assert (code, text.partition(",")[0]) == (451, "4.3.0 Temporary lookup failure")
    configure(gateway, "virtual_alias_expansion_limit = 1")
    gateway.stop()
    gateway.start()
    code, text = gateway.send(recipients=["team@example.net"])
    assert (code, text.partition(",")[0]) == (451, "4.6.0 Alias expansion error")
    about = {"filter": "rewrite", "outcome": "failed"}
    until(lambda: gateway.count("decision", **about) == 2, what="both reasons in the log")
    failed = gateway.events("decision", **about)
    assert "tcp:127.0.0.1" in failed[0]["reason"]["detail"]
    assert "too many" in failed[1]["reason"]["detail"]
    assert not gateway.mail.exists()


def test_local_mail_waits_for_its_tables_and_is_rewritten_like_ours(gateway: Gateway) -> None:
    (gateway.place / "empty").write_text("")
    broken = f'recipient_canonical_maps = ["tcp:127.0.0.1:{gateway.port + 1}"]'
    configure(gateway, broken).start()
    mail = b"From: old@example.net\nSubject: x\n\nx\n"
    done = sendmail(gateway, "-f", "old@example.net", "u", mail=mail)
    assert done.returncode == 0, done.stderr
    until(lambda: gateway.count("message", outcome="tempfailed", listener="pickup"), what="a try")
    configure(gateway)
    gateway.stop()
    gateway.start()
    (got,) = gateway.delivered("u@example.net")
    assert value(got, "From") == "New.Name@example.net"
    assert b"Return-Path: <New.Name@example.net>" in got


def test_queue_show_explains_every_step(shared: Gateway) -> None:
    mail = queue_id(shared.send(recipients=["kept@example.net"]))
    said = show(shared, mail)
    for each in ("virtual_alias_maps", "kept@example.net", "virtual:5", "two@held.example"):
        assert each in said
