"""Delivery to Debian's Postfix, with TLS and with Dovecot's passwords, and to Dovecot over TLS."""

from __future__ import annotations

import email
import smtplib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import SaslOptions, TlsOptions
from smtpgw.delivery.outcome import Deferred, Delivered, Job, Outcome
from smtpgw.delivery.wire import Lost
from tests.delivery.peer import job, pool
from tests.peers.dovecot import Dovecot, dovecot
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory, free_port, wait_for
from tests.queue.support import run

USER = "u@example.net"
HEAD = (
    b"From: a@example.com\r\nSubject: x\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n"
    b"Message-ID: <1@example.com>\r\nTo: u@example.net\r\n\r\n"
)
"""With all that Postfix would add."""
_DOVECOT = """
ssl = yes
ssl_cert = <{home}/chain.pem
ssl_key = <{home}/chain.pem
auth_mechanisms = plain login cram-md5
auth_failure_delay = 0
service auth {{
  inet_listener {{
    address = 127.0.0.1
    port = {port}
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""


@dataclass
class Town:
    """Postfix asks Dovecot who may send, and delivers to it."""

    postfix: Postfix
    dovecot: Dovecot
    home: Path
    tls: TlsOptions

    def sasl(self, line: str) -> SaslOptions:
        path = self.home / "sasl_passwd"
        path.touch(0o600)
        path.write_text(line + "\n")
        return SaslOptions(True, str(path))

    def deliver(
        self, work: Job, *, tls: TlsOptions | None = None, line: str = "", lmtp: bool = False
    ) -> Sequence[Outcome]:
        """One mail to Postfix, or by LMTP to Dovecot.  Raises Lost."""
        port = self.dovecot.port if lmtp else self.postfix.port
        hop = Hop("[mail.example.net]:587", "mail.example.net", "127.0.0.1", port, lmtp)

        async def scenario() -> Sequence[Outcome]:
            line_ = line or f"[mail.example.net]:587 {USER}:secret"
            deliverer = pool(tls=tls or self.tls, sasl=SaslOptions() if lmtp else self.sasl(line_))
            try:
                return await deliverer.deliver_to(hop, work)
            finally:
                await deliverer.close()

        return run(scenario())

    def stored(self, mark: bytes) -> bytes:
        """The mail that holds `mark`, below what the peers put on top, with CRLF."""

        def found() -> list[bytes]:
            return [each for each in self.dovecot.mails(USER) if mark in each]

        wait_for(found, "the mail is stored")
        (mail,) = found()
        mail = mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return mail[mail.index(b"From: a@example.com") :]


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with directory("tls") as home:
        ca = trustme.CA()
        mine = ca.issue_cert("mail.example.net")
        ca.cert_pem.write_to_path(home / "ca.pem")
        mine.private_key_and_cert_chain_pem.write_to_path(home / "chain.pem")
        passwords = free_port()
        extra = _DOVECOT.format(home=home, port=passwords)
        with dovecot({USER: "", "w@example.net": ""}, extra=extra) as store:
            main = {
                "smtpd_tls_security_level": "may",
                "smtpd_tls_chain_files": f"{home}/chain.pem",
                "smtpd_tls_loglevel": "1",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": f"inet:127.0.0.1:{passwords}",
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
                "default_transport": f"lmtp:inet:127.0.0.1:{store.port}",
                "lmtp_line_length_limit": "0",
            }
            with postfix(main) as relay:
                tls = TlsOptions("secure", "secure", smtp_tls_CAfile=f"{home}/ca.pem")
                yield Town(relay, store, home, tls)


def _delivered(outcomes: Sequence[Outcome]) -> Delivered:
    (outcome,) = outcomes
    assert isinstance(outcome, Delivered), outcome
    return outcome


def test_over_tls_and_as_a_user(town: Town) -> None:
    body = b"first\r\n.dot\r\n..\r\ncaf\xe9\r\n"
    outcome = _delivered(town.deliver(job(head=HEAD, text=body)))
    assert outcome.remote == "postfix.example.org"
    assert outcome.tls.startswith("verified TLSv1.3")
    assert town.stored(b"first") == HEAD + body
    assert f"sasl_method=PLAIN, sasl_username={USER}" in town.postfix.peer.said()


def test_a_password_that_is_wrong_keeps_the_mail(town: Town) -> None:
    with pytest.raises(Lost, match=r"said: 535 5\.7\.8") as caught:
        town.deliver(job(head=HEAD), line=f"mail.example.net {USER}:geheim")
    assert (caught.value.enhanced, caught.value.next_host) == ("4.7.8", True)
    assert "geheim" not in caught.value.text


def test_without_tls_only_cram_md5(town: Town) -> None:
    _delivered(town.deliver(job(head=HEAD, text=b"second\r\n"), tls=TlsOptions("none")))
    assert town.stored(b"second") == HEAD + b"second\r\n"
    assert f"sasl_method=CRAM-MD5, sasl_username={USER}" in town.postfix.peer.said()


def test_long_lines_go_whole_in_a_chunk(town: Town) -> None:
    body = b"third " + b"x" * 5000 + b"\r\nand more\r\n"
    _delivered(town.deliver(job(head=HEAD, text=body)))
    assert town.stored(b"third") == HEAD + body


def test_a_large_mail_in_many_chunks(town: Town) -> None:
    body = b"fourth " + b"x" * 1200 + b"\r\n" + b"line after line\r\n" * 100_000
    _delivered(town.deliver(job(head=HEAD, text=body)))
    assert town.stored(b"fourth") == HEAD + body


def test_eight_bits_through_a_peer_of_seven(town: Town) -> None:
    town.postfix.set({"smtpd_discard_ehlo_keywords": "8bitmime, chunking"})
    wait_for(lambda: "chunking" not in _offers(town), "Postfix reloads")
    head = HEAD.removesuffix(b"\r\n") + b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed;"
    head += b" boundary=b\r\n\r\n"
    text = "--b\r\n\r\nfifth, grüße und längeres in vielen Worten mehr.\r\n--b\r\n".encode()
    text += b"Content-Type: application/x\r\n\r\n" + bytes(range(128, 256)) + b"\r\n--b--\r\n"
    long = b"sixth " + b"y" * 3000 + b"\r\n"
    try:
        _delivered(town.deliver(job(head=head, text=text)))
        _delivered(town.deliver(job(head=HEAD, text=long)))
    finally:
        town.postfix.set({"smtpd_discard_ehlo_keywords": ""})
    stored = town.stored(b"fifth")
    assert stored.isascii()
    parts = [email.message_from_bytes(each).get_payload() for each in (stored, head + text)]
    decoded = [[each.get_payload(decode=True) for each in part] for part in parts]  # type: ignore[union-attr] # multiparts
    assert decoded[0] == decoded[1]
    assert town.stored(b"sixth").replace(b"\r\n ", b"") == HEAD + long


def _offers(town: Town) -> str:
    with smtplib.SMTP("127.0.0.1", town.postfix.port) as client:
        client.ehlo()
        return " ".join(client.esmtp_features)


@pytest.mark.parametrize("level", ["encrypt", "secure"])
def test_dovecot_over_tls(town: Town, level: str) -> None:
    mark = f"by lmtp, {level}\r\n".encode()
    work = job(
        (USER.encode(), b"nobody@example.net", b"w@example.net"), mark, head=HEAD, sender=b""
    )
    tls = TlsOptions("none", level, smtp_tls_CAfile=town.tls.smtp_tls_CAfile)
    outcomes = town.deliver(work, tls=tls, lmtp=True)
    assert [type(each).__name__ for each in outcomes] == ["Delivered", "Failed", "Delivered"]
    assert " TLSv1.3 " in outcomes[0].tls
    assert town.stored(mark.strip()) == HEAD + mark


def test_a_relay_that_has_another_name_gets_nothing(town: Town) -> None:
    policy = (("[mail.example.net]:587", "verify match=mx.example.org"),)
    tls = TlsOptions("none", policies=policy, smtp_tls_CAfile=town.tls.smtp_tls_CAfile)
    with pytest.raises(Lost, match=r"is for mail\.example\.net, not mx\.example\.org"):
        town.deliver(job(head=HEAD), tls=tls)


def test_who_does_not_log_in_may_not_relay(town: Town) -> None:
    (outcome,) = town.deliver(job(head=HEAD), line="other.example u:p")
    assert not isinstance(outcome, Delivered | Deferred)
    assert outcome.enhanced == "5.7.1"
