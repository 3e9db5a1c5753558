"""A real Postfix, its smtpd chrooted, with milterd's sockets below its queue directory."""

from __future__ import annotations

import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.host.conftest import until
from tests.host.test_daemon import Milterd
from tests.peers.postfix import Postfix
from tests.peers.smtp_sink import SmtpSink

MAIL = (
    b"From: A <a@example.net>\r\nTo: b@example.org\r\nSubject: gr\xfc\xdfe\r\n"
    b"User-Agent: Mutt\r\nX-Folded: one\r\n\ttwo\r\nX-Tight:none\r\n\r\n"
    b"text\r\n..dots\r\n\xff\r\n"
)


@pytest.fixture(params=["libmilter", "native"])
def milterd(
    request: pytest.FixtureRequest, short_path: Path, postfix: Postfix, smtp_sink: SmtpSink
) -> Iterator[Milterd]:
    """milterd with two filters, and Postfix asking them for all mail."""
    sockets = postfix.queue / "milterd"
    sockets.mkdir(exist_ok=True)
    made = Milterd(short_path, request.param)
    key = short_path / "key.pem"
    key.touch(0o600)
    key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made.write(
        more=f"""
[filter.dkim]
host = "{request.param}"
signing_table = [{{domain = "example.net", selector = "s", key = "{key}"}}]
"""
    )
    text = made.config.read_text()
    text = text.replace(f'socket_directory = "{short_path}"', f'socket_directory = "{sockets}"')
    made.config.write_text(text.replace('socket_group = ""', 'socket_group = "postfix"'))
    made.start().ready(2)
    chain = "unix:milterd/headers.sock unix:milterd/dkim.sock"
    sink = f"smtp:[127.0.0.1]:{smtp_sink.port}"
    postfix.set({"smtpd_milters": chain, "non_smtpd_milters": chain, "default_transport": sink})
    yield made
    postfix.set({"smtpd_milters": "", "non_smtpd_milters": ""})
    made.close()


def test_edits_reach_the_next_hop_byte_by_byte_and_many_mails_without_a_warning(
    milterd: Milterd, postfix: Postfix, smtp_sink: SmtpSink
) -> None:
    before = len(smtp_sink.mails())
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.sendmail("a@example.net", ["b@example.org"], MAIL, ["BODY=8BITMIME"])
    local = MAIL.replace(b"gr\xfc\xdfe", b"plain").replace(b"\r\n", b"\n")  # no SMTPUTF8 here
    postfix.submit(local, "a@example.net", "c@example.org")
    until(lambda: len(smtp_sink.mails()) == before + 2)
    for taken in smtp_sink.mails()[before:]:
        assert b"User-Agent" not in taken
        assert taken.count(b"DKIM-Signature: v=1;") == 1
        assert b"\nSubject: gr\xfc\xdfe\n" in taken or b"\nSubject: plain\n" in taken
        assert b"\nX-Folded: one\n\ttwo\nX-Tight:none\n" in taken
        assert taken.rstrip(b"\n").endswith(b"text\n..dots\n\xff") or b"\n.dots\n\xff" in taken
    lines = until(lambda: len(found := milterd.log("decision")) >= 4 and found)
    assert len(lines) == 4
    assert all(each["queue_id"] and each["outcome"] == "edit" for each in lines)

    before = len(smtp_sink.mails())
    source = ["/usr/sbin/smtp-source", "-s", "4", "-l", "2000", "-m", "200", "-f"]
    source += ["a@example.net", "-t", "b@example.org", f"127.0.0.1:{postfix.port}"]
    subprocess.run(source, check=True, timeout=60)
    until(lambda: len(smtp_sink.mails()) >= before + 200, 60)
    until(lambda: len(milterd.log("decision")) >= 404)
    assert len(milterd.log("decision")) == 404
    assert not milterd.log("failure")
    assert not postfix.troubles()
