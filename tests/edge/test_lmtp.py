"""LMTP as a server (RFC 2033): LHLO, and an answer for each recipient after the dot."""

from __future__ import annotations

import smtplib
from dataclasses import replace

from smtpgw.edge.dialogue_options import DialogueOptions
from smtpgw.edge.road import Answer
from tests.edge.harness import QUICK, Client, Server, wait_for
from tests.peers.postfix import postfix

LMTP = replace(QUICK, dialogue=DialogueOptions(lmtp=True))


def greeted(server: Server) -> Client:
    client = Client(server.port)
    assert client.expect(220) == "220 mx.example.net LMTP Gatepost\r\n"
    client.command(b"LHLO x", 250)
    return client


def test_an_answer_for_each_recipient_that_was_taken() -> None:
    with Server(LMTP) as server, greeted(server) as client:
        client.command(b"MAIL FROM:<a@b>", 250)
        client.command(b"RCPT TO:<u@d>", 250)
        client.command(b"RCPT TO:<refused@d>", 550)
        client.command(b"RCPT TO:<v@d>", 250)
        client.command(b"DATA", 354)
        client.send(b"x\r\n.\r\nNOOP\r\n")
        assert [client.reply()[0] for _ in range(2)] == [250, 250]
        assert client.expect(250) == "250 2.0.0 Ok\r\n"  # of NOOP
        assert server.accepted[0].recipients == [b"u@d", b"v@d"]
        hello = server.accepted[0].hello
        assert hello is not None
        assert hello.lmtp


def test_the_same_by_bdat_and_for_a_refusal() -> None:
    with Server(LMTP) as server, greeted(server) as client:
        server.ledger.answers["message"] = Answer(550, "5.7.1", "no")
        for _ in range(2):
            client.command(b"MAIL FROM:<a@b>", 250)
            for name in (b"u", b"v", b"w"):
                client.command(b"RCPT TO:<%b@d>" % name, 250)
            client.send(b"BDAT 3 LAST\r\nx\r\n")
            for _ in range(3):
                client.expect(550, "5.7.1")
        client.command(b"NOOP", 250)


def test_a_message_that_is_too_large_is_refused_for_each() -> None:
    options = replace(LMTP, content=replace(LMTP.content, message_size_limit=2000))
    with Server(options) as server, greeted(server) as client:
        client.command(b"MAIL FROM:<a@b>", 250)
        client.command(b"RCPT TO:<u@d>", 250)
        client.command(b"RCPT TO:<v@d>", 250)
        client.command(b"DATA", 354)
        client.send(b"y" * 900 + b"\r\n" + (b"y" * 900 + b"\r\n") * 3 + b".\r\n")
        client.expect(552, "5.3.4")
        client.expect(552, "5.3.4")
        client.command(b"NOOP", 250)


def test_no_helo_ehlo_or_etrn() -> None:
    with Server(LMTP) as server, Client(server.port) as client:
        client.expect(220)
        client.command(b"EHLO x", 500, "5.5.1")
        client.command(b"HELO x", 500, "5.5.1")
        client.command(b"MAIL FROM:<a@b>", 503, "5.5.1")
        client.command(b"LHLO", 501, "5.5.4")
        said = client.command(b"LHLO x", 250)
        assert "PIPELINING" in said
        assert "ENHANCEDSTATUSCODES" in said
        client.command(b"ETRN x", 500, "5.5.1")
    with Server() as server, Client(server.port) as client:
        client.expect(220)
        client.command(b"LHLO x", 500, "5.5.1")


def test_data_without_recipients() -> None:
    with Server(LMTP) as server, greeted(server) as client:
        client.command(b"MAIL FROM:<a@b>", 250)
        client.command(b"DATA", 503, "5.5.1")  # RFC 2033 section 4.2
        client.command(b"RCPT TO:<refused@d>", 550)
        client.command(b"DATA", 554, "5.5.1")


def test_a_client_of_lmtp_that_is_not_ours() -> None:
    with Server(LMTP) as server:
        client = smtplib.LMTP("127.0.0.1", server.port)
        assert client.sendmail("a@b", ["u@d"], b"Subject: x\r\n\r\nhello\r\n") == {}
        client.quit()
        assert len(server.accepted) == 1


def test_postfixs_own_client_of_lmtp() -> None:
    """lmtp(8) of Debian's Postfix delivers to us, and hears what became of each recipient."""
    with Server(LMTP) as server:
        with postfix({"default_transport": f"lmtp:inet:127.0.0.1:{server.port}"}) as peer:
            addresses = ("u@d.example", "refused@d.example", "v@d.example")
            peer.submit(b"Subject: x\r\n\r\nhello\r\n", "a@b.example", *addresses)
            wait_for(lambda: peer.peer.said().count("relay=127.0.0.1") >= 3)
            said = peer.peer.said()
        assert server.accepted[0].recipients == [b"u@d.example", b"v@d.example"]
    for address, status in zip(addresses, ("sent", "bounced", "sent"), strict=True):
        (line,) = [each for each in said.splitlines() if f"to=<{address}>" in each]
        assert f"status={status}" in line
