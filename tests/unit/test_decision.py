"""A reply says what it may and nothing that could be taken for SMTP syntax."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.decision import Decision, Reply, Verdict


def test_a_reply_is_written_as_smtp_has_it() -> None:
    assert str(Reply(550, "5.7.1", "no")) == "550 5.7.1 no"


def test_a_reply_may_have_several_lines_and_is_logged_as_one() -> None:
    reply = Reply(550, "5.7.1", "first\nsecond")
    assert reply.text.split("\n") == ["first", "second"]
    assert str(reply) == "550 5.7.1 first second"


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (250, "2.0.0", "ok"), (354, "3.0.0", "go"), (600, "6.0.0", "x"), (550, "4.7.1", "x"),
        (451, "5.7.1", "x"), (550, "5.7", "x"), (550, "5.7.1 ", "x"), (550, "5.7.1\n", "x"),
        (550, "5.1234.1", "x"), (550, "", "x"), (550, "5.7.1", "a\r\n250 ok"),
        (550, "5.7.1", "a\0b"), (550, "5.7.1", "a\x7f"), (550, "5.7.1", "\x1b[2J"),
    ],
)  # fmt: skip
def test_a_reply_that_is_none_is_refused(code: int, enhanced: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"reply|enhanced"):
        Reply(code, enhanced, text)


@given(st.integers(0, 999), st.text(max_size=8), st.text(max_size=20))
def test_every_reply_is_one_line(code: int, enhanced: str, text: str) -> None:
    try:
        said = str(Reply(code, enhanced, text))
    except ValueError:
        return
    assert said[0] in "45"
    assert "\r" not in said
    assert "\n" not in said


def test_a_decision_without_words_lets_the_mail_go_on() -> None:
    assert Decision() == Decision(Verdict.CONTINUE, (), None, ())
