"""The attachments filter at work: under both hosts, and behind a real Postfix."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.core.mail import Mail, body_octets
from milterd.lab.testing import Milter
from tests.attachments import makers as make
from tests.host.conftest import until
from tests.host.own_cases import configure
from tests.host.test_daemon import Milterd
from tests.peers.postfix import Postfix
from tests.peers.smtp_sink import SmtpSink


def octets(mail: Mail) -> bytes:
    return b"From: a@example.net\r\nSubject: files\r\n" + b"".join(mail.pieces())


SCAN = octets(make.message(make.part(b"\x01" * 99, "filename=a.txt"),
                           make.part(b"\x02" * 99, "filename=scan.iso"),
                           make.part(b"\x03" * 99, "filename=c.txt")))  # fmt: skip
PROGRAM = octets(make.with_file(make.zipped({"a.exe": make.PROGRAM}), "a.zip"))
TABLE = '[filter.attachments]\nhost = "{host}"\n'


@pytest.fixture
def milterd(peer_directory: Path) -> Iterator[Milterd]:
    made = Milterd(peer_directory, "native")
    yield made
    made.close()


@pytest.mark.parametrize("host", ["native", "libmilter"])
def test_a_program_is_refused_and_a_file_is_taken_out(milterd: Milterd, host: str) -> None:
    configure(milterd, TABLE.format(host=host) + "[filter.headers]\nmode = 'shadow'\n")
    text = milterd.config.read_text()
    milterd.config.write_text(text.replace("[milterd]", "[milterd]\ntrusted_networks = []"))
    milterd.start().ready(2)
    with Milter(f"unix:{milterd.directory}/attachments.sock") as milter:
        refused = milter.send(PROGRAM)
        assert refused.reply.startswith("550 5.7.1 Attachment not accepted here: a.exe in an arch")
        taken = milter.send(SCAN).message
        assert taken.count(b"scan.iso") == 2  # the note, and the field that says so
        assert milter.send(SCAN.replace(b"scan.iso", b"scan.png")).edits == []
    lines = until(lambda: len(found := milterd.log("decision")) == 3 and found)
    assert [each["outcome"] for each in lines] == ["reject", "edit", "continue"]


def test_behind_postfix_all_but_the_part_arrives_as_it_was(
    milterd: Milterd, postfix: Postfix, smtp_sink: SmtpSink
) -> None:
    configure(milterd, TABLE.format(host="native"))
    sockets = postfix.queue / "milterd"
    sockets.mkdir(exist_ok=True)
    text = milterd.config.read_text().replace("[milterd]", "[milterd]\ntrusted_networks = []")
    text = text.replace(f'y = "{milterd.directory}"', f'y = "{sockets}"')
    milterd.config.write_text(text.replace('socket_group = ""', 'socket_group = "postfix"'))
    milterd.start().ready()
    sink = f"smtp:[127.0.0.1]:{smtp_sink.port}"
    postfix.set({"smtpd_milters": "unix:milterd/attachments.sock", "default_transport": sink})
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.sendmail("a@example.net", ["b@example.org"], SCAN)
        with pytest.raises(smtplib.SMTPDataError, match="Attachment not accepted"):
            client.sendmail("a@example.net", ["b@example.org"], PROGRAM)
    until(smtp_sink.mails)
    (taken,) = smtp_sink.mails()
    part = make.part(b"\x02" * 99, "filename=scan.iso").rstrip(b"\r\n").replace(b"\r\n", b"\n")
    body = body_octets(make.directed(SCAN).body).replace(b"\r\n", b"\n")
    before, _, after = body.partition(part)
    found = taken.partition(b"\n\n")[2].rstrip(b"\n")
    assert found.startswith(before)
    assert found.endswith(after.rstrip(b"\n"))
    assert b"\n * scan.iso\n" in found
    assert b"\nX-Attachment-Status: disk-images (scan.iso)\n" in taken
    assert not postfix.troubles()
