"""The corpus is what it says, or tests that lean on it prove less than they seem to."""

from __future__ import annotations

import re

from tests.corpus.corpus import cpython, made, messages

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


def test_there_are_enough_and_each_is_its_own() -> None:
    assert len(cpython()) >= 40
    assert len({octets for _, octets in made()}) >= 200
    assert len(dict(messages())) == len(messages())


def test_line_ends_are_crlf_and_no_octet_is_nul() -> None:
    for name, octets in messages():
        assert _BARE.search(octets) is None, name
        assert b"\0" not in octets, name


def test_the_awkward_forms_are_there() -> None:
    together = b"".join(octets for _, octets in made())
    for form in (
        b"\r\n \r\n a fold of nothing",
        b"Subject : ",
        b"\r\n.\r\n",
        b"\xff\xfe",
        b"X-Empty:\r\n",
    ):
        assert form in together
    assert any(b"\r\n\r\n" not in octets for _, octets in made()), "one without a blank line"
