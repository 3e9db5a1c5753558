"""The milters of others that the lab grades: each does its real job once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from milterd.core.actions import AddHeader, InsertHeader
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import (
    BytesBody,
    Client,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from milterd.lab.client import Played, play
from tests.peers import mail_dkim, rspamd
from tests.peers.clamav_milter import Milter
from tests.peers.dkimpy_milter import dkimpy_milter
from tests.peers.nameserver import nameserver
from tests.peers.opendkim import Key
from tests.peers.pyspf_milter import pyspf_milter

MAIL = Mail(
    Session(Client(b"mx.example.net", Family.INET, b"192.0.2.1", 4321), b"mx.example.net"),
    Envelope(b"a@example.net", (), (Recipient(b"b@example.org"),)),
    (
        HeaderField(b"From", b" a@example.net"),
        HeaderField(b"To", b" b@example.org"),
        HeaderField(b"Subject", b" one"),
        HeaderField(b"Date", b" Mon, 01 Jan 2024 00:00:00 +0000"),
        HeaderField(b"Message-ID", b" <1@example.net>"),
    ),
    BytesBody(b"hello\r\n"),
)


def _play(peer: Milter, mail: Mail = MAIL) -> Played:
    return asyncio.run(play(peer.address, mail))


def _octets(mail: Mail) -> bytes:
    lines = [each.raw + b"\r\n" for each in mail.headers]
    assert isinstance(mail.body, BytesBody)
    return b"".join(lines) + b"\r\n" + mail.body.octets


def test_dkimpy_milter_signs_and_verifies(peer_directory: Path, dkim_key: Key) -> None:
    with dkimpy_milter(peer_directory, key=dkim_key) as peer:
        signed = apply(MAIL, _play(peer).edits)
    found = mail_dkim.verify(_octets(signed), dkim_key.records)
    assert [each["result"] for each in found] == ["pass"]
    with dkimpy_milter(peer_directory, "v", key=dkim_key) as peer:
        played = _play(peer, signed)
        assert isinstance(played.edits[0], InsertHeader | AddHeader)
        assert played.edits[0].name == b"Authentication-Results"
        assert b"dkim=pass" in played.edits[0].value


def test_pyspf_milter_asks_our_resolver_alone(peer_directory: Path) -> None:
    records = {"example.net": "v=spf1 ip4:192.0.2.1 -all", "example.com": "v=spf1 -all"}
    refused = Mail(MAIL.session, Envelope(b"a@example.com", (), MAIL.envelope.recipients),
                   MAIL.headers, MAIL.body)  # fmt: skip
    with nameserver(records) as resolver, pyspf_milter(peer_directory, resolver) as peer:
        assert b"spf=pass" in _play(peer).edits[0].value  # type: ignore[union-attr]
        played = _play(peer, refused)
    assert played.verdict is Verdict.REJECT
    assert played.reply
    assert (played.reply.code, played.reply.enhanced) == (550, "5.7.23")
    assert {"example.net.", "example.com."} <= set(resolver.asked)


def test_rspamd_rejects_its_test_pattern_alone(peer_directory: Path) -> None:
    spam = Mail(MAIL.session, MAIL.envelope, MAIL.headers, BytesBody(rspamd.SPAM + b"\r\n"))
    with rspamd.rspamd(peer_directory) as peer:
        assert _play(peer).verdict in (Verdict.CONTINUE, Verdict.ACCEPT)
        played = _play(peer, spam)
    assert played.verdict is Verdict.REJECT
    assert played.reply
    assert "Gtube" in played.reply.lines[0]
