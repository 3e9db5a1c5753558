"""A milter at fault: what is said of it, at which line and octet, and with which status."""

from __future__ import annotations

import pytest

from milterd.lab import status
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from tests.lab.bad_milter import Deed, bad_milter, closing, closing_after, dribbling, saying
from tests.lab.scenario.play import play, told

EVENTS = "connect x\nhelo x\nmail <a>\nrcpt <b>\ndata\nheader A: b\neoh\nend\n"
"""Eight lines."""
AGREED = m.Negotiate(6, Actions.NONE, Protocol.NONE).encode()
GARBAGE = b"HTTP/1.1 400 Bad Request\r\n\r\n"
EDIT = m.AddHeaderReply(b"X", b"y").encode()
GO_ON = m.Continue().encode()


@pytest.mark.parametrize(
    ("at", "deed", "line", "found", "text"),
    [
        (
            m.Negotiate,
            saying(GARBAGE),
            1,
            status.BROKEN,
            "negotiate, octet 0 of the milter's: frame",
        ),
        (m.Negotiate, saying(GO_ON), 1, status.BROKEN, "Continue in answer to Negotiate"),
        (m.Negotiate, closing, 1, status.GONE, "connection lost at negotiate, octet 0"),
        (m.Connect, saying(b"\0\0\0\x01?"), 1, status.BROKEN, "unknown reply"),
        (m.Connect, saying(b"\0\0\0\0"), 1, status.BROKEN, "connect, octet 17 of the milter's"),
        (m.MailFrom, saying(EDIT), 3, status.BROKEN, "AddHeaderReply in answer to MailFrom"),
        (m.MailFrom, saying(GO_ON[:3]), 3, status.SILENT, "silent at mail, octet 27"),
        (m.MailFrom, closing_after(GO_ON[:3]), 3, status.GONE, "connection lost at mail, octet 27"),
        (m.Header, saying(b"\xff\xff\xff\xffc"), 6, status.BROKEN, "header, octet 42"),
        (m.EndOfMessage, closing_after(EDIT), 8, status.GONE, "at end of message, octet 61"),
        (m.EndOfMessage, saying(EDIT), 8, status.SILENT, "no answer within 0.3 s"),
        (m.EndOfMessage, dribbling(EDIT, 0.05), 8, status.SILENT, "all may take|not over after"),
        (
            m.EndOfMessage,
            saying(m.AddHeaderReply(b"X Y", b"z").encode() + GO_ON),
            *(8, status.BROKEN, "header name"),
        ),
        (
            m.RcptTo,
            saying(m.ReplyCode(b"250 2.0.0 fine").encode()),
            *(4, status.BROKEN, "reply that is not 4xx or 5xx"),
        ),
    ],
)
def test_what_is_said(at: type, deed: Deed, line: int, found: int, text: str) -> None:
    with bad_milter(at, deed) as milter:
        outcome = play(EVENTS, milter.address, answer=0.3, total=2.0)
        ((where, words),) = told(outcome)
        assert (outcome.status, where) == (found, line)
        assert any(each in words for each in text.split("|")), words
        expected = EVENTS.splitlines()[: line - 1]
        expected += [EVENTS.splitlines()[line - 1] + "\n", f"expect {_expected(found)}"]
        if at is not m.Negotiate and found != status.SILENT:
            again = play("\n".join(expected), milter.address, answer=0.3, total=2.0)
            assert told(again) == []


def _expected(found: int) -> str:
    return "broken" if found == status.BROKEN else "close"


def test_silence_that_was_expected_is_not_waited_for_again() -> None:
    with bad_milter(m.MailFrom, saying()) as milter:
        text = "connect x\nhelo x\nmail <a>\nexpect silence 0.1\n"
        for after in ("", "quit\n", "drop\nconnect y\n"):
            assert told(play(text + after, milter.address, answer=0.3)) == []


def test_a_lie_in_negotiation() -> None:
    lie = m.Negotiate(6, Actions(0x3FF), Protocol.NONE).encode()
    with bad_milter(m.Negotiate, saying(lie)) as milter:
        outcome = play("connect x", milter.address)
        assert (outcome.status, told(outcome)[0][0]) == (status.BROKEN, 1)
        assert "actions 0x3ff in answer to 0x1ff" in told(outcome)[0][1]
        assert told(play("offer version 6\nexpect broken /actions 0x3ff/", milter.address)) == []
        wrong = play("offer version 6\nexpect broken /version/", milter.address)
        assert (wrong.status, told(wrong)[0][0]) == (status.BAD, 2)


def test_what_an_mta_lets_pass_is_a_violation() -> None:
    with bad_milter(m.EndOfMessage, saying(EDIT + GO_ON), Actions.NONE) as milter:
        expect = "expect violation /without having negotiated/\nexpect edit add-header X: y\n"
        assert told(play(EVENTS + expect, milter.address)) == []
        outcome = play(f"{EVENTS}expect no violation", milter.address)
        assert "found AddHeaderReply without having negotiated it" in told(outcome)[0][1]


def test_a_flood_has_an_end() -> None:
    def flood(connection: object) -> None:
        while True:
            connection.sendall(EDIT * 1000)  # type: ignore[attr-defined]

    with bad_milter(m.EndOfMessage, flood) as milter:
        outcome = play(EVENTS, milter.address)
    assert (outcome.status, told(outcome)[0][0]) == (status.BROKEN, 8)
    assert "edits of" in told(outcome)[0][1]


def test_octets_of_a_milter_are_escaped() -> None:
    reply = m.ReplyCode(b"550 5.7.1 \x9b31m\xff")

    with bad_milter(m.RcptTo, saying(reply.encode())) as milter:
        outcome = play(EVENTS, milter.address)
    assert told(outcome)[0][1].isprintable()
    assert r"\\x9b31m\\xff" in told(outcome)[0][1]
