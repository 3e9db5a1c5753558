"""The corpus is what other tests take it for."""

from __future__ import annotations

import re

from milterd.core.mail import body_octets, parse_message
from tests.corpus import constructed, cpython, messages
from tests.corpus.build import build


def test_there_are_enough_and_every_name_is_once() -> None:
    assert len(cpython()) >= 45
    assert len(constructed()) >= 200
    names = [name for name, _ in messages()]
    assert len(set(names)) == len(names)
    assert len({octets for _, octets in constructed()}) == len(constructed())


def test_every_message_can_be_sent_by_smtp() -> None:
    for name, octets in messages():
        assert octets.endswith(b"\r\n"), name
        assert b"\0" not in octets, name
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets), name
        assert max(map(len, octets.split(b"\r\n"))) <= 998, name


def test_the_same_each_time() -> None:
    assert build() == build()


def test_what_makes_mail_hard_is_there() -> None:
    everything = b"\0".join(octets for _, octets in messages())
    for each in (
        rb"\r\n[ \t]+\r\n[ \t]", rb"\r\n\t", rb"[\x80-\xff]", rb"\r\n\.\r\n", rb"\r\n\.\.",
        rb"[A-Za-z] :", rb"\r\n\r\n\0", rb"\r\n[^ :\r]+:\r\n [^\r]", rb"multipart/", rb"\x1b",
    ):  # fmt: skip
        assert re.search(each, everything), each
    mails = [parse_message(octets) for _, octets in messages()]
    assert any(not each.separator for each in mails)
    assert any(each.separator and not each.body.size for each in mails)
    assert any(each.body.size > 131_072 for each in mails)
    assert any(not each.headers for each in mails)
    assert any(field.gap for each in mails for field in each.headers)


def test_parsed_and_joined_every_message_is_the_same() -> None:
    for name, octets in messages():
        mail = parse_message(octets)
        assert b"".join(mail.pieces()) == octets, name
        assert mail.size == len(octets), name
        assert octets.endswith(body_octets(mail.body)), name
