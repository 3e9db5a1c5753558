"""RFC 5321 paths and RFC 3461 parameters, by example and by property."""

from __future__ import annotations

import contextlib
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.address.params import (
    ParamError,
    decode_xtext,
    encode_xtext,
    parse_mail_params,
    parse_rcpt_params,
)
from smtpgw.address.path import NULL, Path, PathError, parse_path
from smtpgw.edge.arguments import KEPT, forward_path, reverse_path

ALL = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN"})

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
DOT_STRINGS = st.lists(st.text(ATEXT, min_size=1, max_size=12), min_size=1, max_size=4).map(
    ".".join
)
QUOTED = st.text(string.printable[:95], max_size=20).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
LABELS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
DOMAINS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(lambda each: f"[{each}]"),
    st.ip_addresses(v=6).map(lambda each: f"[IPv6:{each}]"),
)
PARAMS = st.sampled_from([b"", b" SIZE=1", b" BODY=8BITMIME X=y"])


@given(DOT_STRINGS | QUOTED, DOMAINS, PARAMS, st.booleans())
def test_a_legal_path_comes_back_as_it_was(
    local: str, domain: str, params: bytes, strict: bool
) -> None:
    octets = f"<{local}@{domain}>".encode()
    path, rest = parse_path(octets + params, strict=strict)
    assert b"<" + path.address + b">" == octets
    assert rest == params
    if local.startswith('"'):
        meant = local[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        assert path.mailbox.decode() == meant


@settings(max_examples=300)
@given(st.binary(max_size=40) | st.text('<>@."\\ab:[],\0\r \x80', max_size=30).map(str.encode))
def test_whatever_comes_is_a_clean_path_or_an_error(octets: bytes) -> None:
    for strict in (False, True):
        try:
            path, rest = parse_path(octets, strict=strict, utf8=True, null=True)
        except PathError:
            continue
        assert not set(path.address) & set(b"\0\r\n")
        assert octets.endswith(rest)
        again, _ = parse_path(b"<" + path.address + b">", strict=strict, utf8=True, null=True)
        assert again == path


@pytest.mark.parametrize(
    ("octets", "path"),
    [
        (b"<>", NULL),
        (b"<postmaster>", Path(b"postmaster", b"")),
        (b"<@a.example,@[IPv6:::1],@b:u@d>", Path(b"u", b"d")),
        (b'<"a>b@c"@d>', Path(b'"a>b@c"', b"d")),
        (b'<"a b\\"c"@d>', Path(b'"a b\\"c"', b"d")),
        (b"<user%evil@local>", Path(b"user%evil", b"local")),
        (b"<evil!user@local>", Path(b"evil!user", b"local")),
        (b"<u@[127.0.0.1]>", Path(b"u", b"[127.0.0.1]")),
        (b"<u@[ipv6:2001:db8::1]>", Path(b"u", b"[ipv6:2001:db8::1]")),
        (b"<u@local.>", Path(b"u", b"local")),
        (b"<u@a_b.example>", Path(b"u", b"a_b.example")),
        ("<ü@ö.example>".encode(), Path("ü".encode(), "ö.example".encode())),
        (b"  u@d", Path(b"u", b"d")),
    ],
)
def test_accepted(octets: bytes, path: Path) -> None:
    assert parse_path(octets, null=True, utf8=True) == (path, b"")


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"<", b"<>x", b"<a>", b"<@>", b"<@a>", b"<@a:>", b"<@a:b>", b"<@a,b:u@d>", b"<a@>",
        b"<a@b", b"a@b>", b"<a@b>>", b"<<a@b>>", b"<a b@c>", b"<a@b c>", b"<.a@b>", b"<a.@b>",
        b"<a..b@c>", b"<a@b..c>", b"<a@.b>", b"<a@-b>", b"<a@b->", b"<a@b@c>", b"<a@[1.2.3]>",
        b"<a@[1.2.3.4>", b"<a@[IPv6:1]>", b"<a@[IPv6:fe80::1%eth0]>", b"<a@[tag:x]>", b"<a@..>",
        b'<"a@b>', b'<"a"b@c>', b'<"a\\"@b>', b'<"a\x07"@b>', b"<a\0b@c>", b"<a@b\rX>", b"<a@b\n>",
        b"<a\xff@b>", "<a\u202eb@c>".encode(), "<a\u2028b@c>".encode(), "<a\x85b@c>".encode(),
        b"<a@b>SIZE=1", b"<a@b>\rSIZE=1", b"<" + b"x" * 65 + b"@b>", b"<a@" + b"x" * 64 + b">",
        b"<a@" + b"x." * 126 + b"xx>",
    ],
)  # fmt: skip
def test_refused(octets: bytes) -> None:
    with pytest.raises(PathError):
        parse_path(octets, utf8=True, null=True)


@pytest.mark.parametrize("octets", [b"u@d", b" <u@d>", b"<u@d.>", b"<u@a_b>"])
def test_refused_when_strict(octets: bytes) -> None:
    parse_path(octets)
    with pytest.raises(PathError):
        parse_path(octets, strict=True)


def test_8_bit_says_what_it_needs() -> None:
    with pytest.raises(PathError) as caught:
        parse_path("<ü@b>".encode())
    assert caught.value.needs_smtputf8


@pytest.mark.parametrize(
    "octets",
    [b"<" + b"@a," * 300_000, b"<" + b"a." * 500_000, b'<"' + b"\\a" * 500_000, b"<" * 10**6],
)
def test_hostile_length_costs_no_time(octets: bytes) -> None:
    begin = time.process_time()
    with pytest.raises(PathError):
        parse_path(octets + b">")
    assert time.process_time() - begin < 0.5


@given(st.binary(min_size=1, max_size=60))
def test_xtext_round_trip(octets: bytes) -> None:
    assert decode_xtext(encode_xtext(octets)) == octets


def test_parameters_as_values() -> None:
    said = parse_mail_params(b" size=10 BODY=8bitmime SMTPUTF8 RET=full ENVID=a+20b", ALL)
    assert (said.size, said.body, said.smtputf8, said.ret, said.envid) == (
        10, "8BITMIME", True, "FULL", b"a b",
    )  # fmt: skip
    to = parse_rcpt_params(b" NOTIFY=success,DELAY ORCPT=RFC822;a+2Bb@c", ALL, utf8=False)
    assert to.notify == {"SUCCESS", "DELAY"}
    assert to.orcpt == ("rfc822", b"a+b@c")
    assert to.args == (b"NOTIFY=success,DELAY", b"ORCPT=RFC822;a+2Bb@c")


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"NOTIFY=", 501), (b"NOTIFY", 501), (b"NOTIFY=NEVER,NEVER", 501), (b"NOTIFY=X", 501),
        (b"NOTIFY=DELAY NOTIFY=DELAY", 501), (b"ORCPT=x", 501), (b"ORCPT=rfc822;", 501),
        (b"ORCPT=;a", 501), (b"ORCPT=rfc822;a=b", 501), (b"ORCPT=rfc822;a+0Db", 501),
        (b"ORCPT=rfc822;a+b", 501), (b"ORCPT=rfc822;a+0ab", 501), ("ORCPT=utf-8;ü".encode(), 501),
        (b"SIZE=1", 555), (b"AUTH=<>", 555), (b"=x", 501), (b"NOTIFY=\x01", 501), (b"A\0=b", 501),
        (b"DELAY\rNOTIFY=NEVER", 501),
    ],
)  # fmt: skip
def test_bad_parameters(octets: bytes, code: int) -> None:
    with pytest.raises(ParamError) as caught:
        parse_rcpt_params(b" " + octets, ALL, utf8=False)
    assert caught.value.code == code


@given(st.binary(max_size=60))
def test_any_parameters_are_values_or_an_error(octets: bytes) -> None:
    with contextlib.suppress(ParamError):
        parse_mail_params(octets, ALL)
    with contextlib.suppress(ParamError):
        parse_rcpt_params(octets, ALL, utf8=True)


def test_nothing_is_known_that_was_not_announced() -> None:
    for each in (b" SIZE=1", b" BODY=7BIT", b" SMTPUTF8", b" RET=FULL"):
        with pytest.raises(ParamError) as caught:
            parse_mail_params(each, frozenset())
        assert caught.value.code == 555


def test_what_is_remembered_of_an_argument_is_of_its_dialogue_alone() -> None:
    """An argument that was taken once is refused where its extension was not announced, where
    the grammar is strict, and without SMTPUTF8; and what is kept has a bound."""
    size = frozenset({"SIZE"})
    assert reverse_path(b"<a@example.net> SIZE=9", False, size)[1].size == 9
    with pytest.raises(ParamError):
        reverse_path(b"<a@example.net> SIZE=9", False, frozenset())
    assert forward_path(b" a@example.net.", False, False, size)[0].domain == b"example.net"
    with pytest.raises(PathError):
        forward_path(b" a@example.net.", True, False, size)
    wide = "<ä@example.net>".encode()
    assert forward_path(wide, False, True, size)[0].local == "ä".encode()
    with pytest.raises(PathError):
        forward_path(wide, False, False, size)
    assert {each.cache_info().maxsize for each in (reverse_path, forward_path)} == {KEPT}
