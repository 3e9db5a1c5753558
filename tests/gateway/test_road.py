"""A mail's whole road through the running gateway."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.gateway.conftest import go_on, milter_table
from tests.gateway.gateway import Gateway, send_by, until

MESSAGE = (
    b"Received: from x by y; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Subject:  two  spaces \r\n\tand a fold\r\n"
    b"X-Eight: \xe9\xff\r\n"
    b"From: a@example.org\r\n"
    b"\r\n"
    b".dot\r\n..\r\n\r\n8-bit \x80\r\n"
)


def queued_as(text: str) -> str:
    match = re.fullmatch(r"2\.0\.0 Ok: queued as ([0-9A-Za-z]{10,16})", text)
    assert match is not None, text
    return match[1]


def test_an_accepted_mail_stands_in_the_maildir_to_the_octet(running: Gateway, user: str) -> None:
    code, text = running.send(MESSAGE, recipients=[user])
    assert code == 250
    queue_id = queued_as(text)
    (found,) = running.delivered(user)
    trace, rest = found.split(b"Received: from x by y", 1)
    assert b"Received: from x by y" + rest == MESSAGE.replace(b"\r\n", b"\n")
    assert trace.startswith(b"Return-Path: <a@example.org>\n")
    received = re.search(rb"^Received: from (.*(?:\n\s.*)*)", trace, re.MULTILINE)
    assert received is not None
    words = b" ".join(received[1].split())
    assert words.startswith(b"client.example.org (")
    assert b"[127.0.0.1])" in words
    assert b"by gw.example.net" in words
    assert b"with ESMTP id " + queue_id.encode() in words
    assert b"for <" + user.encode() + b">;" in words
    until(lambda: running.count("queue.done", queue_id=queue_id), what="its end")


def test_the_decision_is_one_line_with_all_that_matters(running: Gateway, user: str) -> None:
    _, text = running.send(MESSAGE, recipients=[user])
    (line,) = until(lambda: running.events("message", queue_id=queued_as(text)))
    assert (line["listener"], line["client"]) == ("mx", "127.0.0.1")
    assert (line["outcome"], line["sender"]) == ("queued", "a@example.org")
    assert line["recipients"] == [user]
    assert line["reason"] == f"250 {text}"
    assert line["size"] == len(MESSAGE)
    code, _ = running.send(recipients=["u\x1b[31m@example.net"])
    assert code == 501
    code, text = running.send(sender="log@example.org", recipients=["u@example.com"])
    assert (code, text) == (554, "5.7.1 <u@example.com>: Relay access denied")
    (line,) = until(lambda: running.events("command", sender="log@example.org"))
    assert (line["command"], line["outcome"]) == ("RCPT", "rejected")
    assert (line["recipient"], line["filter"]) == ("u@example.com", "reject_unauth_destination")
    assert line["reason"] == "554 5.7.1 <u@example.com>: Relay access denied"
    assert line["decided"][0] == "relay_domains: none of our domains"
    assert "\x1b" not in running.log_file.read_text()


def test_one_received_field_names_no_recipient_among_many(running: Gateway, user: str) -> None:
    assert running.send(recipients=(user, f"other{user}"))[0] == 250
    for address in (user, f"other{user}"):
        (found,) = running.delivered(address)
        assert b"for <" not in found


def test_a_client_in_mynetworks_may_send_anywhere(gateway: Gateway) -> None:
    gateway.configure('mynetworks = ["127.0.0.1"]')
    gateway.start()
    assert gateway.send(recipients=("u@example.com",))[0] == 250
    assert gateway.delivered("u@example.com")


def test_postmaster_alone_is_ours(running: Gateway) -> None:
    assert running.send(recipients=("Postmaster",))[0] == 250
    until(lambda: list(running.mail.glob("[Pp]ostmaster@gw.example.net/new/*")))


def test_a_client_that_half_closes_after_its_dot_has_its_mail_queued(
    running: Gateway, user: str
) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
        lines = ["EHLO x", "MAIL FROM:<a@example.org>", f"RCPT TO:<{user}>", "DATA"]
        reader = client.makefile("rb")
        assert reader.readline().startswith(b"220")
        for line in lines:
            client.sendall(line.encode() + b"\r\n")
            while reader.readline()[3:4] == b"-":
                pass
        client.sendall(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        client.shutdown(socket.SHUT_WR)
        answers = reader.read()
    assert running.delivered(user)
    assert answers.startswith(b"250 2.0.0 Ok: queued as ")


def test_large_mail_goes_by_the_spool_and_leaves_nothing_there(running: Gateway, user: str) -> None:
    body = b"0123456789abcdef" * 4 + b"\r\n"
    message = b"Subject: large\r\n\r\n" + body * 60_000
    assert running.send(message, recipients=[user])[0] == 250
    (found,) = running.delivered(user)
    assert found.endswith(message.replace(b"\r\n", b"\n"))
    assert not list((running.queue / "spool").iterdir())
    until(lambda: not list(running.queue.glob("*/bodies/*")))


def test_too_large_a_mail_leaves_nothing(running: Gateway, user: str) -> None:
    code, text = running.send(b"Subject: x\r\n\r\n" + b"x\r\n" * 2_100_000, recipients=[user])
    assert (code, text[:5]) == (552, "5.3.4")
    assert not list((running.queue / "spool").iterdir())
    assert running.send(recipients=[user])[0] == 250
    assert len(running.delivered(user)) == 1


def test_swaks_is_content(running: Gateway, user: str) -> None:
    done = subprocess.run(
        [
            *("swaks", "--server", f"127.0.0.1:{running.port}", "--to", user),
            *("--from", "a@example.org", "--header", "X-Test: swaks"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert b"X-Test: swaks" in running.delivered(user)[0]


def test_our_own_fault_is_451_with_a_reference_that_the_log_has(gateway: Gateway) -> None:
    gateway.start()
    shutil.rmtree(gateway.queue / "00" / "bodies")
    code, text = gateway.send(b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n" * 200_000)
    assert (code, text[:5]) == (451, "4.3.0")
    reference = text.rpartition(" ")[2]
    (line,) = until(lambda: gateway.events("message", queue_id=reference))
    assert line["outcome"] == "failed"
    assert "bodies" in str(gateway.told("decision", queue_id=reference)[0]["reason"])
    assert "/" not in text
    assert gateway.send()[0] == 250
    gateway.delivered()


def test_tls_is_offered_where_there_is_a_certificate_and_told_in_the_trace(
    gateway: Gateway,
) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("gw.example.net")
    server.private_key_and_cert_chain_pem.write_to_path(gateway.place / "tls.pem")
    text = gateway.file.read_text()
    files = "".join(f'tls_{each} = "{gateway.place}/tls.pem"\n' for each in ("cert", "key"))
    gateway.file.write_text(text.replace('name = "mx"\n', f'name = "mx"\n{files}'))
    gateway.start()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.check_hostname = False
    with gateway.client() as client:
        assert client.starttls(context=context)[0] == 220
        client.ehlo("client.example.org")
        assert not client.has_extn("starttls")
        code, _ = send_by(client, b"Subject: x\r\n\r\n", "a@example.org", ["u@example.net"])
    assert code == 250
    assert b"with ESMTPS id" in gateway.delivered()[0]


def test_submission_is_for_our_own_networks_only(gateway: Gateway) -> None:
    text = gateway.file.read_text().replace(
        'name = "mx"',
        'name = "mx"\nprofile = "submission"\nsmtpd_tls_security_level = "none"',
    )
    gateway.file.write_text(
        text.replace("stop_timeout", 'mynetworks = ["192.0.2.1"]\nstop_timeout')
    )
    gateway.start()
    code, answer = gateway.send()
    assert (code, answer) == (
        554,
        "5.7.1 <u@example.net>: Recipient address rejected: Access denied",
    )


# -- milters ---------------------------------------------------------------------------


def subject(word: str) -> bytes:
    return b"Subject: " + word.encode() + b"\r\n\r\nhello\r\n"


def test_a_milters_edit_is_delivered_and_it_knows_the_queue_id(
    with_milter: Gateway, user: str
) -> None:
    code, text = with_milter.send(subject("plain"), recipients=[user])
    assert code == 250
    (found,) = with_milter.delivered(user)
    assert found.endswith(b"X-Scripted: yes, " + queued_as(text).encode() + b"\n\nhello\n")
    (line,) = until(lambda: with_milter.events("message", queue_id=queued_as(text)))
    assert line["edits"] == {"scripted": 1}
    assert with_milter.count("decision", filter="milter scripted", queue_id=queued_as(text))


@pytest.mark.parametrize(
    ("word", "answer", "outcome"),
    [
        ("reject", (550, "5.7.1 the milter says no"), "rejected"),
        ("tempfail", (451, "4.7.1"), "tempfailed"),
    ],
)
def test_a_milters_refusal_is_the_clients_answer(
    with_milter: Gateway, user: str, word: str, answer: tuple[int, str], outcome: str
) -> None:
    name = f'gatepost_mails_total{{daemon="smtpgw",listener="mx",outcome="{outcome}"}}'
    code, text = with_milter.send(subject(word), recipients=[user])
    assert code == answer[0]
    assert text.startswith(answer[1])
    (line,) = until(lambda: with_milter.events("message", recipients=[user]))
    assert (line["outcome"], line["filter"]) == (outcome, "milter scripted")
    assert not (with_milter.mail / user).exists()
    told = len(with_milter.events("message", outcome=outcome, listener="mx"))
    until(lambda: with_milter.metrics().get(name) == told, what="the count")


def test_a_milter_refuses_one_recipient_of_two(with_milter: Gateway, user: str) -> None:
    with with_milter.client() as client:
        client.mail("a@example.org")
        assert client.rcpt("refused@example.net") == (550, b"5.1.1 no such user says the milter")
        assert client.rcpt(user)[0] == 250
        client.data(b"Subject: x\r\n\r\nhello\r\n")
    assert with_milter.delivered(user)
    assert not (with_milter.mail / "refused@example.net").exists()


def test_a_discarded_mail_is_accepted_and_gone(with_milter: Gateway, user: str) -> None:
    code, text = with_milter.send(subject("discard"), recipients=[user])
    assert code == 250
    queue_id = queued_as(text)
    until(lambda: with_milter.count("message", outcome="discarded", queue_id=queue_id))
    assert not (with_milter.mail / user).exists()
    assert queue_id not in run(with_milter, "list")


def test_a_quarantined_mail_is_held_until_released(with_milter: Gateway, user: str) -> None:
    code, text = with_milter.send(subject("quarantine"), recipients=[user])
    assert code == 250
    queue_id = queued_as(text)
    until(lambda: with_milter.count("message", outcome="held", queue_id=queue_id))
    listed = run(with_milter, "list", "--state", "hold")
    assert queue_id in listed
    assert "looks odd" in listed
    assert not (with_milter.mail / user).exists()
    run(with_milter, "release", queue_id)
    assert with_milter.delivered(user)


def run(gateway: Gateway, *words: str) -> str:
    """A queue command with the gateway's settings."""
    command = [sys.executable, "-m", "smtpgw", "queue", *words, "--config", str(gateway.file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_slow_milter_stops_nobody_else(with_milter: Gateway, user: str) -> None:
    with with_milter.client() as slow, with_milter.client() as quick:
        slow.mail("a@example.org")
        slow.rcpt(user)
        slow.docmd("DATA")
        slow.send(subject("slow") + b".\r\n")
        assert send_by(quick, subject("plain"), "a@example.org", [f"quick{user}"])[0] == 250
        assert not with_milter.events("message", recipients=[user])
        with go_on(with_milter.place / "milter"):
            assert slow.getreply()[0] == 250
    assert with_milter.delivered(user)


def test_two_mails_of_a_session_know_nothing_of_each_other(with_milter: Gateway, user: str) -> None:
    with with_milter.client() as client:
        assert send_by(client, subject("reject"), "a@example.org", [user])[0] == 550
        assert client.rcpt(user)[0] == 503
        code, text = send_by(client, subject("plain"), "b@example.org", [f"other{user}"])
    assert code == 250
    assert queued_as(text).encode() in with_milter.delivered(f"other{user}")[0]
    assert not (with_milter.mail / user).exists()


def test_a_milter_hears_of_a_transaction_given_up_at_once(with_milter: Gateway, user: str) -> None:
    aborts = with_milter.place / "milter.aborts"
    with with_milter.client() as client:
        client.mail("a@example.org")
        client.rcpt(user)
        before = aborts.stat().st_size if aborts.exists() else 0
        client.rset()
        until(lambda: aborts.exists() and aborts.stat().st_size > before, what="the abort")


def test_a_milter_that_dies_costs_451_and_nothing_else(gateway: Gateway, milter: Path) -> None:
    gateway.configure(tables=milter_table(milter))
    gateway.start()
    code, text = gateway.send(subject("crash"))
    assert (code, text[:5]) == (451, "4.7.1")
    code, text = gateway.send(subject("plain"))
    assert (code, text[:5]) == (451, "4.7.1"), "greeted, as Postfix does, and refused at MAIL"
    assert not gateway.mail.exists()
    failures = 'gatepost_filter_failures_total{filter="scripted"'
    assert any(name.startswith(failures) for name in gateway.metrics())
