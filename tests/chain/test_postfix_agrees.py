"""Debian's Postfix with the same milter does the same: its replies, and its edited mails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import smtplib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from milterd.core.mail import (
    BytesBody,
    Envelope,
    HeaderField,
    Mail,
    Recipient,
    body_octets,
    parse_message,
)
from milterd.wire import messages as m
from smtpgw.chain import MilterOptions
from tests.chain.scripted import SESSION, ChainResult, Scripted, chain_of, run, walk
from tests.chain.test_verdicts import REFUSALS
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import answers, daemon, directory, wait_for
from tests.peers.smtp_sink import SmtpSink, smtp_sink

MILTER = Path(__file__).with_name("editing_milter.py")
MESSAGE = (
    b"Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Received: from c by d; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"X-Multi: one\r\n"
    b"From: s@example.org\r\n"
    b"x-multi: two\r\n"
    b"Subject:  two spaces\r\n\tand a fold\r\n"
    b"X-Multi: three\r\n"
    b"To: a@example.net\r\n"
    b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Message-ID: <one@example.org>\r\n"
    b"\r\n"
    b"first line\r\n.dot line\r\n\r\nlast line\r\n"
)
OURS = HeaderField(b"Received", b" ours", hidden=True)


@dataclass(frozen=True)
class Editing:
    """A Postfix with a milter that makes the edits named in `file`, and where its mails end."""

    postfix: Postfix
    sink: SmtpSink
    socket: Path
    file: Path


@pytest.fixture(scope="module")
def relay() -> Iterator[tuple[Postfix, Path]]:
    """A Postfix, and where it looks for its milter."""
    with postfix({"smtpd_milters": "unix:m.sock"}) as mta:
        yield mta, mta.queue / "m.sock"


@pytest.fixture(scope="module")
def editing() -> Iterator[Editing]:
    with ExitStack() as stack:
        home = stack.enter_context(directory("editing"))
        sink = stack.enter_context(smtp_sink(home))
        parameters = {
            "default_transport": f"smtp:[127.0.0.1]:{sink.port}",
            "smtpd_milters": "unix:m.sock",
        }
        mta = stack.enter_context(postfix(parameters))
        path, file = mta.queue / "m.sock", home / "edits.json"
        command = [sys.executable, str(MILTER), str(path), str(file)]
        peer = stack.enter_context(daemon("editing", command, home, lambda: answers(path)))
        path.chmod(0o666)
        yield Editing(mta, sink, path, file)
        os.kill(peer.pid, signal.SIGKILL)  # libmilter takes five seconds to end by itself


def _say(port: int, upto: str) -> bytes:
    """What Postfix answers to the named step of a transaction."""
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("client.example.org")
        replies = {"mail": client.mail("s@example.org")}
        if upto != "mail":
            replies["rcpt"] = client.rcpt("a@example.net")
        if upto == "data":
            replies["data"] = client.docmd("data")
            if replies["data"][0] == 354:
                client.send(MESSAGE.replace(b"\n.", b"\n..") + b".\r\n")
                replies["data"] = client.getreply()
        code, text = replies[upto]
        return b"%d %b" % (code, text)


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        (m.MailFrom, "mail"),
        (m.RcptTo, "rcpt"),
        (m.Data, "data"),
        (m.Header, "data"),
        (m.EndOfMessage, "data"),
    ],
)
def test_the_same_refusals(relay: tuple[Postfix, Path], stage: type, step: str) -> None:
    mta, path = relay

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for reply, text, *_ in REFUSALS:
            if isinstance(reply, m.Shutdown) and stage in {m.Header, m.EndOfMessage}:
                continue  # Postfix's cleanup takes such a mail
            milter = Scripted(path, {stage: reply})
            server = await asyncio.start_unix_server(milter.serve, path)
            path.chmod(0o666)
            try:
                theirs = await loop.run_in_executor(None, _say, mta.port, step)
                ours = await walk(chain_of(milter.options()))
            finally:
                server.close()
                path.unlink()
            assert str(ours.reply) == text
            assert _same_text(theirs) == _same_text(text.encode()), (stage, reply)

    run(main(), within=60)


def _same_text(reply: bytes) -> bytes:
    """A reply without what we write otherwise: one line for several, blanks for tabs, and
    an enhanced code and a text where there was none."""
    code, text = reply[:3], re.sub(rb"[\s]+", b" ", reply[3:])
    text = re.sub(rb" [45]\.\d+\.\d+", b"", text)
    return code + b" " + text.strip().removesuffix(b"Refused by policy")


EDITS: dict[str, list[list[object]]] = {
    "add": [["addheader", "X-New", "value"], ["addheader", "X-Folded", "one\n\ttwo"]],
    "insert at 0": [["addheader", "X-Top", "top", 0]],
    "insert at 1": [["addheader", "X-One", "one", 1]],
    "insert in the middle": [["addheader", "X-Mid", "mid", 4]],
    "insert too far": [["addheader", "X-Far", "far", 100]],
    "insert twice at 1": [["addheader", "X-A", "a", 1], ["addheader", "X-B", "b", 1]],
    "change first": [["chgheader", "X-Multi", 1, "changed"]],
    "change index 0": [["chgheader", "X-Multi", 0, "changed"]],
    "change second": [["chgheader", "x-MULTI", 2, "changed\n\tfolded"]],
    "change third": [["chgheader", "X-Multi", 3, "changed"]],
    "change missing": [["chgheader", "X-Multi", 4, "appended"]],
    "change unknown": [["chgheader", "X-Unknown", 1, "appended"]],
    "delete missing": [["chgheader", "X-Unknown", 1, ""]],
    "delete first, change first": [
        ["chgheader", "X-Multi", 1, ""],
        ["chgheader", "X-Multi", 1, "changed"],
    ],
    "delete down": [
        ["chgheader", "X-Multi", 3, ""],
        ["chgheader", "X-Multi", 2, ""],
        ["chgheader", "X-Multi", 1, ""],
    ],
    "change a Received": [["chgheader", "Received", 1, "changed"]],
    "change what was added": [
        ["addheader", "X-New", "value"],
        ["chgheader", "X-New", 1, "changed"],
    ],
    "change past an insertion": [
        ["addheader", "X-Multi", "zero", 1],
        ["chgheader", "X-Multi", 2, "changed"],
    ],
    "replace body": [
        ["replacebody", "new\nbody\r\n"],
        ["replacebody", ".\n"],
        ["replacebody", "end"],
    ],
    "envelope": [
        ["chgfrom", "<new@example.org>"],
        ["addrcpt", "<c@example.net>"],
        ["delrcpt", "<b@example.net>"],
    ],
}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_the_same_mail(editing: Editing, edits: list[list[object]]) -> None:
    editing.file.write_text(json.dumps(edits))
    sink = editing.sink
    before = set(sink.directory.iterdir())
    with smtplib.SMTP("127.0.0.1", editing.postfix.port, timeout=20) as client:
        client.sendmail("s@example.org", ["a@example.net", "b@example.net"], MESSAGE)
    wait_for(lambda: _complete(sink, before), "Postfix delivers", within=15)
    ours = run(_through_our_chain(editing.socket))
    theirs = _complete(sink, before)[0]
    envelope = ours.mail.envelope
    assert theirs.sender == envelope.sender
    assert sorted(theirs.recipients) == sorted(each.address for each in envelope.recipients)
    assert theirs.mail.headers == ours.mail.headers
    assert body_octets(theirs.mail.body) == body_octets(ours.mail.body)


async def _through_our_chain(path: Path) -> ChainResult:
    parsed = parse_message(MESSAGE)
    recipients = (Recipient(b"a@example.net"), Recipient(b"b@example.net"))
    mail = Mail(
        SESSION, Envelope(b"s@example.org", (), recipients), (OURS, *parsed.headers), parsed.body
    )
    chain = chain_of(MilterOptions("editing", f"unix:{path}"))
    result = await walk(chain, mail)
    await chain.close()
    assert isinstance(result, ChainResult)
    return result


class _Taken:
    """A mail as smtp-sink wrote it, with Postfix's own Received put in the place of ours."""

    def __init__(self, octets: bytes) -> None:
        whole = parse_message(octets.replace(b"\n", b"\r\n"))
        trace = {each.name: each.value.strip() for each in whole.headers[:8]}
        own = next(
            at for at, each in enumerate(whole.headers) if b"by postfix.example.org" in each.value
        )
        first = 1 + max(
            at for at, each in enumerate(whole.headers) if b"by smtp-sink" in each.value
        )
        headers = list(whole.headers)
        headers[own] = OURS
        # The sink ends every mail with an empty line of its own.
        body = body_octets(whole.body).removesuffix(b"\r\n")
        self.mail = Mail(headers=tuple(headers[first:]), body=BytesBody(body))
        self.sender = _path(trace[b"X-Mail-Args"])
        self.recipients = [
            _path(each.value) for each in whole.headers if each.name == b"X-Rcpt-Args"
        ]


def _path(argument: bytes) -> bytes:
    return argument[argument.index(b"<") + 1 : argument.index(b">")]


def _complete(sink: SmtpSink, before: set[Path]) -> list[_Taken]:
    files = [each.read_bytes() for each in set(sink.directory.iterdir()) - before]
    return [_Taken(each) for each in files if each.endswith((b"last line\n\n", b"end\n\n"))]
