"""The SMTP reply of a milter: read strictly, made so that it reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.wire.errors import LocalError, PeerError
from milterd.wire.limits import Limits
from milterd.wire.replytext import SmtpReply, make_reply, parse_reply


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"550 5.7.1 no", SmtpReply(550, "5.7.1", ("no",))),
        (b"550 no", SmtpReply(550, "", ("no",))),
        (b"550", SmtpReply(550, "", ("",))),
        (b"451 4.7.1", SmtpReply(451, "4.7.1", ("",))),
        (b"554-5.7.1 a\r\n554 5.7.1 b", SmtpReply(554, "5.7.1", ("a", "b"))),
        (b"554-a\r\n554-\r\n554 b", SmtpReply(554, "", ("a", "", "b"))),
        (b"550 5.7.1 100%% sure %s%n %", SmtpReply(550, "5.7.1", ("100% sure sn ",))),
        (b"550 5.7.1 caf\xc3\xa9\there", SmtpReply(550, "5.7.1", ("caf?? here",))),
        (b"421 4.3.2 5.5.5 is not a code", SmtpReply(421, "4.3.2", ("5.5.5 is not a code",))),
    ],
)
def test_what_is_understood(text: bytes, expected: SmtpReply) -> None:
    assert parse_reply(text) == expected


def test_the_text_as_one_line() -> None:
    assert parse_reply(b"554-5.7.1 a\r\n554-\r\n554 b").text == "a b"


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(
    st.integers(400, 599),
    st.booleans(),
    st.lists(printable.map(lambda each: each.replace(".", ",")), min_size=1, max_size=32),
)
def test_round_trip(code: int, enhanced: bool, lines: list[str]) -> None:
    status = f"{code // 100}.7.1" if enhanced else ""
    made = make_reply(code, status, lines)
    assert parse_reply(made.text) == SmtpReply(code, status, tuple(lines))


@pytest.mark.parametrize(
    ("code", "enhanced", "lines"),
    [
        (250, "2.0.0", "ok"),
        (550, "4.0.0", "other class"),
        (550, "nonsense", "x"),
        (550, "5.7.1", "a\r\n250 ok"),
        (550, "5.7.1", "caf\xe9"),
        (550, "5.7.1", "x" * 980),
        (550, "5.7.1", ["x"] * 33),
        (550, "", "5.7.1 text that looks like a code"),
        (55, "", "x"),
    ],
)
def test_what_is_not_made(code: int, enhanced: str, lines: str | list[str]) -> None:
    with pytest.raises(LocalError):
        make_reply(code, enhanced, lines)


@given(st.binary(max_size=60))
def test_any_octets_are_refused_or_understood(text: bytes) -> None:
    try:
        reply = parse_reply(b"5" + text)
    except PeerError:
        return
    assert 500 <= reply.code <= 599
    assert all(" " <= each <= "~" for line in reply.lines for each in line)


def test_limits_are_the_callers() -> None:
    assert parse_reply(b"550 " + b"x" * 6, Limits(reply_line=10)).text == "x" * 6
    with pytest.raises(PeerError):
        parse_reply(b"550 " + b"x" * 7, Limits(reply_line=10))
    with pytest.raises(PeerError):
        parse_reply(b"550-a\r\n550 b", Limits(reply_lines=1))
