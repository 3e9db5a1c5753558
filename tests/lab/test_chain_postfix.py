"""A chain of real milters makes of a mail what Debian's Postfix queues with the same list."""

from __future__ import annotations

import json
import os
import re
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.core.mail import parse_message
from milterd.lab.cli import app
from tests.chain.test_debian_milters import EICAR
from tests.peers.clamav_milter import clamav_milter
from tests.peers.clamd import Clamd
from tests.peers.mail_dkim import verify
from tests.peers.opendkim import Key, make_key, opendkim
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory, wait_for
from tests.peers.smtp_sink import SmtpSink, smtp_sink

ROOT = Path(__file__).parents[2]
HEAD = (
    b"Received: from elsewhere by somewhere; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"X-Virus-Scanned: forged\r\n"
    b"Authentication-Results: mx.example.net; dkim=pass header.d=bank.example\r\n"
    b"From: Somebody <s@example.net>\r\n"
    b"To: a@example.net\r\n"
    b"Subject:  Gr\xc3\xbc\xc3\x9fe,\r\n\tfolded\r\n"
    b"X-Virus-Status: forged too\r\n"
    b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Message-ID: <one@example.net>\r\n"
    b"\r\n"
)
BODIES = {
    "short": b"hello\r\n.\r\nend\r\n",
    "blank lines": b"\r\n\r\nhello  there\r\n\r\n\r\n",
    "long": b"".join(b"%06d %b\r\n" % (number, b"y" * 60) for number in range(3000)),
}


class Site:
    """A Postfix with three milters in a row, and where they are for others."""

    def __init__(self, mta: Postfix, sink: SmtpSink, sockets: list[str], key: Key) -> None:
        self.mta, self.sink, self.sockets, self.key = mta, sink, sockets, key

    def queued(self, message: bytes) -> bytes:
        """What Postfix delivers of a message, without the trace of its own and of the sink."""
        before = set(self.sink.mails())
        with smtplib.SMTP("127.0.0.1", self.mta.port, timeout=30) as client:
            client.sendmail("s@example.net", ["a@example.net"], message)
        wait_for(lambda: set(self.sink.mails()) - before, "Postfix delivers", within=30)
        (octets,) = set(self.sink.mails()) - before
        whole = parse_message(_crlf(octets))
        own = [b"by smtp-sink", b"by postfix.example.org"]
        fields = [
            each
            for each in whole.headers[_first(whole.headers) :]
            if not (each.name == b"Received" and any(name in each.value for name in own))
        ]
        # The sink ends every mail with an empty line of its own.
        return b"".join(whole.with_headers(fields).pieces()).removesuffix(b"\r\n")


def _first(headers: object) -> int:
    """The first field behind those of smtp-sink itself."""
    assert isinstance(headers, tuple)
    return 1 + next(at for at, each in enumerate(headers) if b"by smtp-sink" in each.value)


def _crlf(octets: bytes) -> bytes:
    return octets.replace(b"\n", b"\r\n")


@contextmanager
def our_headers_filter(home: Path) -> Iterator[Path]:
    """Our headers filter in its native host."""
    path = home / "headers.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(50)
        path.chmod(0o666)
        number = listener.fileno()
        command = [sys.executable, "-m", "tests.golden.serve", "native", "headers", str(number)]
        process = subprocess.Popen([*command, "unix:/none", "/none"], pass_fds=(number,), cwd=ROOT)
    try:
        yield path
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def site(clamd: Clamd) -> Iterator[Site]:
    with ExitStack() as stack:
        home = stack.enter_context(directory("chain"))
        key = make_key(home)
        paths = [
            stack.enter_context(our_headers_filter(home)),
            stack.enter_context(clamav_milter(home, clamd)).socket,
            stack.enter_context(opendkim(home, "s", key=key)).socket,
        ]
        sink = stack.enter_context(smtp_sink(home))
        parameters = {
            "smtpd_milters": " ".join(f"unix:{each.name}" for each in paths),
            "default_transport": f"smtp:[127.0.0.1]:{sink.port}",
        }
        mta = stack.enter_context(postfix(parameters))
        for each in paths:
            os.link(each, mta.queue / each.name)
        yield Site(mta, sink, [f"unix:{each}" for each in paths], key)


def unstamped(message: bytes) -> bytes:
    """A message without what is another in every signature: its time, and the signature."""
    return re.sub(rb"(\bt=)\d+|(\bb=)[A-Za-z0-9+/=\s]+", rb"\1\2", message)


def through_the_chain(site: Site, message: bytes, home: Path, *options: str) -> bytes:
    file, out = home / "mail.eml", home / "out.eml"
    file.write_bytes(message)
    arguments = ["chain", *site.sockets, str(file), "--from", "s@example.net"]
    arguments += ["--to", "a@example.net", "--out", str(out), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    mail = parse_message(out.read_bytes())
    (own,) = (each for each in mail.headers if b"(Postfix) with ESMTP" in each.value)
    # The field that stands in for Postfix's own has another date and another queue id.
    fields = (each for each in mail.headers if each is not own)
    return b"".join(mail.with_headers(fields).pieces())


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_result_is_what_postfix_queues(site: Site, body: bytes, tmp_path: Path) -> None:
    ours = through_the_chain(site, HEAD + body, tmp_path)
    theirs = site.queued(HEAD + body)
    assert unstamped(ours) == unstamped(theirs)
    assert b"forged" not in ours
    assert b"bank.example" not in ours
    for message in (ours, theirs):
        assert [each["result"] for each in verify(message, site.key.records)] == ["pass"]


def test_a_virus_ends_both(site: Site, tmp_path: Path) -> None:
    message = HEAD + EICAR + b"\r\n"
    with (
        smtplib.SMTP("127.0.0.1", site.mta.port, timeout=30) as client,
        pytest.raises(smtplib.SMTPDataError) as refused,
    ):
        client.sendmail("s@example.net", ["a@example.net"], message)
    (tmp_path / "mail.eml").write_bytes(message)
    result = CliRunner().invoke(app, ["chain", *site.sockets, str(tmp_path / "mail.eml"), "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    said = f"{refused.value.smtp_code} {refused.value.smtp_error.decode()}"
    assert found["reply"] == said
    assert found["ended_by"] == site.sockets[1]
    assert [each["shown"] for each in found["milters"]] == [True, True, False]
