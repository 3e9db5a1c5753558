"""A reply that could not be one SMTP line cannot be made."""

from __future__ import annotations

import pytest

from milterd.core.decision import Reply


def test_a_reply_reads_as_smtp_does() -> None:
    assert str(Reply(550, "5.7.1", "no")) == "550 5.7.1 no"


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (250, "2.0.0", "ok"),
        (600, "5.7.1", "no such class"),
        (550, "4.7.1", "classes differ"),
        (450, "4.7", "two parts"),
        (450, "4.7.1\n", "newline"),
        (550, "5.7.1", "two\r\n250 lines"),
        (550, "5.7.1", "NUL \0"),
        (550, "5.7.1", "delete \x7f"),
    ],
)
def test_what_is_no_reply_is_refused(code: int, enhanced: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"reply|code"):
        Reply(code, enhanced, text)
