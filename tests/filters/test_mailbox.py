"""The From parser: what it reads, what it refuses, and that it never takes long."""

from __future__ import annotations

import contextlib
import time
from email.headerregistry import HeaderRegistry

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.filters.mailbox import AddressError, Mailbox, first_word, mailboxes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" a@example.net", [b"a@example.net"]),
        (b" A.B@Example.NET ", [b"A.B@example.net"]),
        (b"<a@b.example>", [b"a@b.example"]),
        (b" Plain Name <a@b.example>", [b"a@b.example"]),
        (b' "Last, First; (x) <y@z>" <a@b.example>', [b"a@b.example"]),
        (b' "quoted \\"sign\\"" <"a b"@c.example>', [b"a b@c.example"]),
        (b" J. R. Name <a@b.example>", [b"a@b.example"]),
        (b" =?utf-8?b?Y0BkLmV4YW1wbGU=?= <a@b.example>", [b"a@b.example"]),
        ("Jürgen <jü@b.example>".encode(), ["jü@b.example".encode()]),
        (b"\xff\xfe <a@b.example>", [b"a@b.example"]),
        (b" a@b.example (comment (nested \\) more))", [b"a@b.example"]),
        (b"(c)a(c)@(c)b(c).(c)example(c)", [b"a@b.example"]),
        (b" x\r\n\t<a@b.example>\r\n (y)", [b"a@b.example"]),
        (b"a@[192.0.2.1]", [b"a@[192.0.2.1]"]),
        (b"a@b.example, B <c@d.example>", [b"a@b.example", b"c@d.example"]),
        (b"(" * 2000 + b")" * 2000 + b"a@b.example", [b"a@b.example"]),
    ],
)
def test_what_reads(value: bytes, expected: list[bytes]) -> None:
    assert [each.local + b"@" + each.domain for each in mailboxes(value)] == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" \r\n ",
        b"name",
        b"<>",
        b"name <>",
        b"<a>",
        b"a@",
        b"@b",
        b"a@b.",
        b"a@.b",
        b"a..b@c",
        b".a@c",
        b"a b@c",
        b"a@b c",
        b"a@b)c@d",
        b"<a@b>c@d",
        b'"a"@b <c@d>',
        b"a@b <c@d>",
        b"<a@b",
        b"a@b>",
        b"<<a@b>>",
        b"<@x,@y:a@b>",
        b"group: a@b;",
        b"undisclosed:;",
        b"a@b,",
        b",a@b",
        b"a@b,,c@d",
        b"a@b;c@d",
        b"(",
        b"a@b (",
        b"(" * 2000,
        b'"',
        b'"a@b',
        b"a@[b",
        b"a@b]",
        b"a\\b@c",
        b"a@b\rBcc: c@d",
        b"a@b\nBcc: c@d",
        b"a\0b@c",
        b"a@b\0",
        b'"x\0y" <a@b>',
        b"(x\0y) a@b",
        b"a@b" + b" " * 70_000,
        b"a@b," * 5000 + b"a@b",
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_does_not_read(value: bytes) -> None:
    with pytest.raises(AddressError):
        mailboxes(value)


WORD = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,8}", fullmatch=True)
DOTTED = st.lists(WORD, min_size=1, max_size=3).map(".".join)
BLANK = st.sampled_from(["", " ", "\t", "\r\n ", "(c)", " (a(b)\\)c) ", '("<)']).filter(bool)
NAME = st.sampled_from(["", "Name ", '"x@y, <z@w>" ', "A B ", "=?utf-8?q?a=40b?= "])


@given(DOTTED, DOTTED, NAME, BLANK, BLANK)
def test_an_address_survives_any_decoration(
    local: str, domain: str, name: str, one: str, two: str
) -> None:
    value = f"{one}{name}{two}<{one}{local}{two}@{one}{domain}{two}>{one}"
    assert mailboxes(value.encode()) == (Mailbox(local.encode(), domain.lower().encode()),)


@given(
    st.lists(st.sampled_from([*'()<>@,.:;"\\[] \t', "\r\n ", "a", "b.c", "\0", "é"])).map("".join)
)
def test_anything_else_is_read_as_others_read_it_or_refused(value: str) -> None:
    try:
        found = mailboxes(value.encode())
    except AddressError:
        return
    others = HeaderRegistry()("From", value.replace("\r\n", "")).addresses
    assert [each.domain.decode() for each in found] == [each.domain.lower() for each in others]


@given(st.binary(max_size=200))
def test_octets_never_raise_anything_else(value: bytes) -> None:
    for read in (mailboxes, first_word):
        with contextlib.suppress(AddressError):
            read(value)


@pytest.mark.parametrize(
    "unit",
    [b"(", b'"', b'"\\', b"a ", b"a.", b".", b"a@b,", b"\r\n ", b'"a', b"(\\", b"[", b"<", b"a<"],
    ids=repr,
)
def test_time_is_linear(unit: bytes) -> None:
    began = time.process_time()
    with pytest.raises(AddressError):
        mailboxes(unit * (65_000 // len(unit)))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (b" mx.example.net; dkim=pass", b"mx.example.net"),
        (b"mx.example.net 1; none", b"mx.example.net"),
        (b'(x)\r\n "mx.ex\\ample.net" (y);', b"mx.example.net"),
        (b"mx . example(z).net;", b"mx.example.net"),
        (b"mx.example.net.;", b"mx.example.net."),
    ],
)
def test_first_word(value: bytes, word: bytes) -> None:
    assert first_word(value) == word


@pytest.mark.parametrize("value", [b"", b";", b"(x; y", b"<x>", b"\0x", b'"x'])
def test_no_first_word(value: bytes) -> None:
    with pytest.raises(AddressError):
        first_word(value)
