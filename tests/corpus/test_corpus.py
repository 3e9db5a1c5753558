"""The corpus is what it says, or tests that lean on it prove less than they seem to."""

from __future__ import annotations

import re

from milterd.core.mail import parse_message
from tests.corpus.corpus import by_kind, cpython, made, messages
from tests.corpus.kinds import build

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


def test_there_are_enough_and_each_is_its_own() -> None:
    assert len(cpython()) >= 45
    assert len({octets for _, octets in made()}) >= 200
    assert len({octets for _, octets in by_kind()}) == len(by_kind()) >= 200
    assert len(dict(messages())) == len(messages())


def test_line_ends_are_crlf_and_no_octet_is_nul() -> None:
    for name, octets in messages():
        assert _BARE.search(octets) is None, name
        assert octets.endswith(b"\r\n"), name
        assert b"\0" not in octets, name


def test_those_by_kind_keep_to_smtp_s_line_length() -> None:
    """RFC 5321 section 4.5.3.1.6: 998 octets and the CRLF.  Some of the made ones do not."""
    for name, octets in by_kind():
        assert max(map(len, octets.split(b"\r\n"))) <= 998, name
    assert any(len(line) > 998 for _, octets in made() for line in octets.split(b"\r\n"))


def test_the_same_each_time() -> None:
    assert build() == build()


def test_the_awkward_forms_are_there() -> None:
    for source in (made(), by_kind()):
        together = b"\0".join(octets for _, octets in source)
        for form in (
            rb"\r\n[ \t]+\r\n[ \t]", rb"\r\n\t", rb"[\x80-\xff]", rb"\xff\xfe", rb"\r\n\.\r\n",
            rb"\r\n\.\.", rb"[A-Za-z] :", rb"\r\n\r\n\0", rb"\r\n[^ :\r]+:\r\n [^\r]",
            rb"multipart/", rb"\r\n[^ :\r]+:\r\n[^ ]",
        ):  # fmt: skip
            assert re.search(form, together), form
    mails = [parse_message(octets) for _, octets in messages()]
    assert any(not each.separator for each in mails)
    assert any(each.separator and not each.body.size for each in mails)
    assert any(each.body.size > 131_072 for each in mails)
    assert any(not each.headers for each in mails)
    assert any(field.gap for each in mails for field in each.headers)
