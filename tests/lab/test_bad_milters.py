"""Whatever a milter does wrong, `milterlab send` says what and at which octet, and ends with the
status that means it: in time, and without a traceback."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from milterd.lab.cli import app
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.frames import frame
from tests.lab.bad_milter import BadMilter, bad_milter, closing, closing_after, dribbling, saying
from tests.peers.process import directory

run = CliRunner()
AGREED = m.Negotiate(6, Actions.ALL, Protocol.NONE).encode()
GO_ON = m.Continue().encode()
STAGES = [
    m.Negotiate, m.Connect, m.Helo, m.MailFrom, m.RcptTo, m.Data, m.Header, m.EndOfHeaders,
    m.BodyChunk, m.EndOfMessage,
]  # fmt: skip


def send(milter: BadMilter, *options: str) -> Result:
    with directory("bad-mail") as home:
        mail = home / "mail.eml"
        mail.write_bytes(b"From: a@example.net\r\nSubject: x\r\n\r\ntext\r\n")
        result = run.invoke(app, ["send", milter.address, str(mail), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    return result


def field(octets: int) -> bytes:
    return m.AddHeaderReply(b"X", b"x" * octets).encode()


BROKEN = {
    "not a milter": (m.Negotiate, b"HTTP/1.1 400 Bad Request\r\n\r\n", r"frame of"),
    "a packet of no length": (m.Negotiate, bytes(4) + b"c", r"frame of 0"),
    "a packet of 2 GiB": (m.MailFrom, b"\x7f\xff\xff\xffc", r"frame of 2147483647"),
    "a packet over 1 MiB": (m.EndOfMessage, frame(b"b", bytes(2**20 + 1)), r"frame of 1048578"),
    "an unknown reply": (m.MailFrom, frame(b"Z"), r"unknown reply b'Z'"),
    "a reply with more than it has": (m.Helo, frame(b"c", b"more"), r"at helo"),
    "a field without a NUL": (m.EndOfMessage, frame(b"h", b"X"), r"at end of message"),
    "an index cut off": (m.EndOfMessage, frame(b"m", b"\0\0"), r"at end of message"),
    "an edit too early": (m.MailFrom, field(1) + GO_ON, r"AddHeaderReply in answer to MailFrom"),
    "skip where nothing is skipped": (m.EndOfMessage, m.Skip().encode(), r"Skip in answer to"),
    "a second negotiation": (m.RcptTo, AGREED, r"negotiation comes once"),
    "no negotiation": (m.Negotiate, GO_ON, r"Continue in answer to Negotiate"),
    "half a negotiation": (m.Negotiate, frame(b"O", b"\0\0\0\6"), r"at negotiate"),
    "version 7": (m.Negotiate, m.Negotiate(7, Actions.NONE, Protocol.NONE).encode(), r"version 7"),
    "version 1": (m.Negotiate, m.Negotiate(1, Actions.NONE, Protocol.NONE).encode(), r"version 1"),
    "actions not offered": (
        m.Negotiate, m.Negotiate(6, Actions(0x3FF), Protocol.NONE).encode(), r"actions 0x3ff",
    ),
    "a list for no stage": (
        m.Negotiate, frame(b"O", bytes(3) + b"\6" + bytes(8) + b"\0\0\0\x2aj\0"), r"stage 42",
    ),
    "a reply with 250": (m.MailFrom, m.ReplyCode(b"250 fine").encode(), r"not 4xx or 5xx"),
    "a reply with an escape": (m.MailFrom, m.ReplyCode(b"550 \x1b[31m").encode(), r"control"),
    "a reply of 33 lines": (
        m.MailFrom, m.ReplyCode(b"\r\n".join([b"550-x"] * 32 + [b"550 x"])).encode(), r"33 lines",
    ),
    "a body piece too long": (
        m.EndOfMessage, m.ReplaceBodyChunk(bytes(65536)).encode(), r"piece of 65536",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("at", "octets", "message"), BROKEN.values(), ids=BROKEN)
def test_a_breach_is_named_with_its_octet(at: type, octets: bytes, message: str) -> None:
    with bad_milter(at, saying(octets)) as milter:
        result = send(milter)
        good = milter.good
    assert result.exit_code == 3, result.output
    assert re.search(message, result.output)
    assert f"octet {good} of the milter's" in result.output


TOO_MUCH = {
    "too many edits": ([field(1)] * 10_001, r"10001 edits"),
    "edits too long": ([field(60_000)] * 150, r"edits of \d+ octets"),
    "a body of 100 MB": ([m.ReplaceBodyChunk(bytes(65535)).encode()] * 1600, r"new body"),
}


@pytest.mark.parametrize(("octets", "message"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_too_much_is_refused_while_it_comes(octets: list[bytes], message: str) -> None:
    with bad_milter(m.EndOfMessage, saying(*octets)) as milter:
        result = send(milter, "--json")
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert re.search(message, report["fault"])
    assert (report["kind"], report["stage"]) == ("broken", "end of message")
    assert report["octet"] > milter.good


def test_two_replies_for_one_event() -> None:
    with bad_milter(m.MailFrom, saying(GO_ON * 2)) as milter:
        result = send(milter)
        good = milter.good
    assert result.exit_code == 3
    assert "Continue that nobody asked for" in result.output
    assert f"octet {good + len(GO_ON)} of" in result.output


@pytest.mark.parametrize("at", STAGES)
def test_silence_ends_in_time_wherever_it_begins(at: type) -> None:
    with bad_milter(at, saying()) as milter:
        result = send(milter, "--timeout", "0.15")
        good = milter.good
    assert result.exit_code == 4, result.output
    assert "no answer within 0.15 s" in result.output
    assert f"octet {good} of" in result.output


@pytest.mark.parametrize("at", STAGES)
def test_leaving_is_told_from_silence_wherever_it_comes(at: type, tmp_path: Path) -> None:
    with bad_milter(at, closing) as milter:
        result = send(milter, "--out", str(tmp_path / "out"))
        good = milter.good
    assert result.exit_code == 5, result.output
    assert f"octet {good} of" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", range(1, 5))
def test_leaving_within_a_packet(cut: int) -> None:
    edits = m.AddHeaderReply(b"X-A", b"1").encode() + GO_ON
    with bad_milter(m.EndOfMessage, closing_after(edits[:-cut])) as milter:
        result = send(milter)
        good = milter.good
    assert result.exit_code == 5, result.output
    assert f"octet {good + len(edits) - len(GO_ON)} of" in result.output
    assert "X-A" not in result.output


SLOW = {
    "an octet at a time": (m.Negotiate, AGREED[:-1] + bytes(1)),
    "always at work": (m.EndOfMessage, m.Progress().encode()),
}


@pytest.mark.parametrize(("at", "octets"), SLOW.values(), ids=SLOW)
def test_a_milter_that_is_never_silent_and_never_done(at: type, octets: bytes) -> None:
    with bad_milter(at, dribbling(octets, 0.05)) as milter:
        result = send(milter, "--timeout", "5", "--deadline", "0.4")
    assert result.exit_code == 4, result.output
    assert "the 0.4 s that all may take" in result.output


def test_a_flood_of_progress_ends_at_the_deadline_too() -> None:
    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(m.Progress().encode() * 10_000)

    with bad_milter(m.EndOfMessage, flood) as milter:
        result = send(milter, "--deadline", "0.5")
    assert result.exit_code == 4, result.output
    assert "the 0.5 s that all may take" in result.output


def test_nobody_accepts() -> None:
    with directory("deaf") as home, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "s"))
        listener.listen(0)
        milter = BadMilter(str(home / "s"), m.Negotiate, closing, Actions.NONE, Protocol.NONE)
        assert send(milter, "--timeout", "0.15").exit_code == 4
    assert send(milter).exit_code == 5


UNOFFERED = m.Negotiate(6, Actions.NONE, Protocol(0x4000_0000)).encode()


@pytest.mark.parametrize(
    ("mta", "at", "octets", "status", "message"),
    [
        ("sendmail", m.Negotiate, UNOFFERED, 3, "protocol flags that were not offered"),
        ("sendmail", m.MailFrom, m.Progress().encode() + GO_ON, 3, "Progress in answer to Mail"),
        (
            "sendmail", m.MailFrom, m.QuarantineReply(b"why").encode() + GO_ON, 3,
            "QuarantineReply in answer to Mail",
        ),
        ("sendmail", m.EndOfMessage, m.Shutdown().encode(), 3, "Shutdown in answer to End"),
        ("postfix", m.EndOfMessage, m.Shutdown().encode(), 1, "421 4.7.1"),
        ("postfix", m.EndOfMessage, m.Progress().encode() + GO_ON, 0, "continue"),
        ("sendmail", m.EndOfMessage, m.Progress().encode() + GO_ON, 0, "continue"),
    ],
)  # fmt: skip
def test_each_mta_drops_what_it_drops(
    mta: str, at: type, octets: bytes, status: int, message: str
) -> None:
    with bad_milter(at, saying(octets)) as milter:
        result = send(milter, "--as", mta)
        good = milter.good
    assert result.exit_code == status, result.output
    assert message in result.output
    if status == 3:
        assert f"octet {good} of" in result.output


@pytest.mark.parametrize(
    ("mta", "status", "message"),
    [("postfix", 0, "-text"), ("sendmail", 1, "451 4.3.2 Please try again later")],
)
def test_a_body_that_was_not_negotiated(mta: str, status: int, message: str) -> None:
    octets = m.ReplaceBodyChunk(b"new").encode() + GO_ON
    with bad_milter(m.EndOfMessage, saying(octets), Actions.ADDHDRS) as milter:
        result = send(milter, "--as", mta)
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "ReplaceBodyChunk without having negotiated it" in result.output


def test_one_broken_message_does_not_end_the_others(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.eml")
        files[-1].write_bytes(b"Subject: x\r\n\r\n")
    (tmp_path / "nul.eml").write_bytes(b"Subject: a\0b\r\n\r\n")
    names = [str(each) for each in [*files[:1], tmp_path / "nul.eml", tmp_path / "none", *files]]
    for options in ([], ["--one-connection"]):
        with bad_milter(m.EndOfMessage, closing) as milter:
            result = run.invoke(app, ["send", milter.address, *names, *options])
        assert result.exit_code == 5, result.output
        assert result.output.count("connection lost at end of message") == 4
        assert "nul.eml: the field Subject holds a NUL" in result.output
        assert "none: No such file" in result.output


def test_octets_of_the_milter_are_escaped() -> None:
    octets = m.AddHeaderReply(b"X-\x1b[31m", b"\x1b]0;title\x07").encode() + GO_ON
    with bad_milter(m.EndOfMessage, saying(octets)) as milter:
        result = send(milter)
    assert result.exit_code == 0, result.output
    assert r"\x1b]0;title\x07" in result.output
