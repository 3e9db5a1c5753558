"""8-bit mail made 7-bit: what it decodes to stays, and CPython's email is the judge of that."""

from __future__ import annotations

import email
import email.message
import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from milterd.core.spooled import long_lines
from smtpgw.delivery.emit import DotStuffer, Folder, LineEnds
from smtpgw.delivery.encode import convert, survey
from smtpgw.delivery.mime import Between, Content, Header, Walker
from smtpgw.delivery.parts import Unclear, content_type, uncommented

EXAMPLES = int(os.environ.get("GATEPOST_MIME", "100"))
MIME = b"MIME-Version: 1.0\r\n"


def cut(message: bytes, step: int) -> Iterator[bytes]:
    return (message[at : at + step] for at in range(0, len(message), step))


def whole(message: bytes, step: int = 65535) -> bytes:
    """With CRLF everywhere, and at the end."""
    ends = LineEnds()
    return b"".join(ends.feed(each) for each in cut(message, step)) + ends.finish()


def converted(message: bytes, step: int = 65535) -> bytes:
    plan = survey(cut(message, step))
    return b"".join(convert(cut(message, step), plan))


def leaves(message: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded content of every leaf, as CPython reads it."""
    found = email.message_from_bytes(message)
    return [
        (each.get_content_type(), each.get_payload(decode=True))
        for each in found.walk()
        if not each.is_multipart()
    ]


def walked(message: bytes, step: int) -> bytes:
    walker = Walker()
    out = b""
    events = [e for piece in cut(message, step) for e in list(walker.feed(piece))]
    for event in [*events, *walker.finish()]:
        match event:
            case Header(part):
                out += part.block
            case Content(_, octets) | Between(_, octets):
                out += octets
    return out


# Messages, from leaf to root

LINES = st.sampled_from(
    [b"", b"plain", "grüße".encode(), b"\xff\xfe", b"ends in a space ", b"tab\t", b".", b"=3D=",
     b"--", b"--b", b"-- ", b"--b1--x", b"x" * 80, b"\xe9" * 40, b"y" * 1200, b"a\0b", b"From x"]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=6).map(b"\r\n".join)
LEAF_TYPES = st.sampled_from(
    [b"", b"Content-Type: text/plain; charset=utf-8\r\n", b"Content-Type: text/html\r\n",
     b'Content-Type: application/octet-stream; name="a (b).bin"\r\n',
     b"content-type: IMAGE/PNG (a comment)\r\n"]
)  # fmt: skip
ENCODINGS = st.sampled_from(
    [b"", b"Content-Transfer-Encoding: 8bit\r\n", b"content-transfer-encoding:  BINARY\r\n"]
)
OUTER = st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n"])


@st.composite
def entities(draw: st.DrawFn, depth: int = 0) -> bytes:
    """A header without what only a message has, a blank line, a body."""
    kind = draw(st.sampled_from(["leaf"] * 2 + (["mixed", "mixed", "rfc822"] * (depth < 3))))
    if kind == "leaf":
        return draw(LEAF_TYPES) + draw(ENCODINGS) + b"\r\n" + draw(TEXTS)
    outer = draw(OUTER)
    if kind == "rfc822":
        inner = draw(entities(depth + 1))
        return b"Content-Type: message/rfc822\r\n" + outer + b"\r\n" + b"Subject: in\r\n" + inner
    boundary = b"b%d" % depth
    quoted = draw(st.sampled_from([boundary, b'"%b"' % boundary]))
    parts = draw(st.lists(entities(depth + 1), min_size=1, max_size=3))
    delimiter = b"\r\n--" + boundary
    gap = draw(st.sampled_from([b"\r\n", b"  \t\r\n"]))
    body = b"".join(delimiter + gap + each for each in parts) + delimiter + b"--"
    preamble = draw(st.sampled_from([b"", b"not for you\r\n--bx\r\n"]))
    epilogue = draw(st.sampled_from([b"", b"\r\n", b"\r\nthe end\r\n"]))
    head = b"Content-Type: multipart/mixed;\r\n\tboundary=" + quoted + b"; x=y\r\n"
    return head + outer + b"\r\n" + preamble + body + epilogue


MESSAGES = entities().map(lambda e: b"Subject: s\r\nX-Fold:\r\n x\r\n" + e)


STEPS = st.sampled_from([1, 3, 64, 65535])


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, STEPS)
def test_it_decodes_to_what_it_was_and_is_seven_bit(message: bytes, step: int) -> None:
    out = converted(message, step)
    assert leaves(out) == leaves(whole(message, step))
    assert out.isascii()
    assert b"\0" not in out
    assert max(map(len, out.split(b"\r\n"))) <= 998
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", out)
    assert converted(out) == whole(out), "nothing is left to do"


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, STEPS)
def test_what_needs_nothing_stays_to_the_octet(message: bytes, step: int) -> None:
    assert walked(message, step) == message
    plain = message.translate(bytes(range(1, 128)) * 2 + b"  ")
    if long_lines(plain, 998)[0] or not plain.count(b"\r\n"):
        return
    assert converted(plain, step) == plain


@given(st.binary(max_size=300), st.integers(1, 40))
@example(b"Content-Type: multipart/mixed; boundary=b\r\n--b\r\n\r\n--b--", 3)
def test_any_octets_are_converted_or_refused(junk: bytes, step: int) -> None:
    message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + junk
    try:
        out = converted(message, step)
    except Unclear:
        return
    assert out.isascii()
    assert walked(whole(message), step) == whole(message)


def mixed(*parts: bytes, minor: bytes = b"mixed", head: bytes = MIME) -> bytes:
    body = b"".join(b"--b\r\n%b\r\n" % each for each in parts) + b"--b--\r\n"
    return head + b"Content-Type: multipart/%b; boundary=b\r\n\r\n" % minor + body


def test_only_the_parts_that_need_it_change() -> None:
    plain = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain"
    latin = b"Content-Type: text/plain; charset=x\r\n\r\ncaf\xe9 = 1 "
    image = b"Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\nX: y\r\n\r\n\x89PNG"
    outer = MIME + b"Content-Transfer-Encoding: 8bit\r\n"
    assert converted(mixed(plain, latin, image, head=outer)) == mixed(
        plain,
        b"Content-Type: text/plain; charset=x\r\nContent-Transfer-Encoding: quoted-printable\r\n"
        b"\r\ncaf=E9 =3D 1=20",
        b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\nX: y\r\n\r\niVBORw==",
        head=MIME + b"Content-Transfer-Encoding: 7bit\r\n",
    )


def test_a_mail_without_mime_gets_it() -> None:
    out = converted(b"Subject: x\r\n\r\na line of text and then caf\xe9\r\n")
    assert out == (
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\na line of text and then caf=E9\r\n"
    )


def test_text_of_another_alphabet_is_shorter_in_base64() -> None:
    out = converted(MIME + b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "привет".encode())
    assert b"Transfer-Encoding: base64\r\n\r\n0L/RgNC40LLQtdGCDQo=" in out


_EIGHT = b"\r\n\xe9"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"Subject: \xe9\r\n\r\nx", "header field that is 8-bit"),
        (mixed(b"Content-Description: \xe9\r\n\r\nx"), "header field that is 8-bit"),
        (mixed(_EIGHT, minor=b"signed"), "signed or encrypted"),
        (mixed(_EIGHT, minor=b"encrypted"), "signed or encrypted"),
        (mixed(b"\r\nx").replace(b"--b\r\n", b"\xe9\r\n--b\r\n"), "belongs to no part"),
        (mixed(b"\r\nx") + b"\xe9", "belongs to no part"),
        (mixed(b"Content-Transfer-Encoding: base64\r\n" + _EIGHT), "says that it is encoded"),
        (mixed(b"Content-Transfer-Encoding: x-odd\r\n" + _EIGHT), "says that it is encoded"),
        (mixed(b"Content-Type: message/partial\r\n" + _EIGHT), "never encoded: message/partial"),
        (mixed(b"Content-Type: text/a\r\nContent-Type: text/b\r\n" + _EIGHT), "more than one"),
        (b"Content-Type: multipart/mixed\r\n" + _EIGHT, "without a boundary"),
        (b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n" + _EIGHT, "or with several"),
        (b"Content-Type: multipart/mixed; boundary*0=a\r\n" + _EIGHT, "in pieces"),
        (b"Content-Type: multipart\r\n" + _EIGHT, "cannot be read"),
        (b'Content-Type: multipart/mixed; boundary="a\r\n' + _EIGHT, "cannot be read"),
        (b"Content-Type: text/plain (a\r\n" + _EIGHT, "comment"),
        (mixed(mixed(_EIGHT, head=b"")), "the same boundary"),
        (b"Content-Type: message/rfc822\r\n\r\n" * 200 + _EIGHT, "nested deeper than 100"),
        (mixed(*[b"\r\nx"] * 10_001), "more than 10000 parts"),
        (mixed(b"X: y\r\n" * 200_000 + _EIGHT), "a header of over 1048576 octets"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_with_the_reason(message: bytes, words: str) -> None:
    with pytest.raises(Unclear, match=words):
        survey(cut(message, 65535))


def test_what_is_in_a_digest_is_a_mail() -> None:
    inner = b"Subject: in\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain words, caf\xe9"
    out = converted(mixed(b"\r\n" + inner, minor=b"digest"))
    head = b"Subject: in\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    assert b"--b\r\n\r\n" + head + b"plain words, caf=E9\r\n--b--" in out


def test_signed_parts_in_seven_bits_stay_beside_what_is_converted() -> None:
    signed = mixed(b"\r\n" + b"x" * 2000, minor=b"signed", head=b"").replace(b"=b", b"=c")
    signed = signed.replace(b"--b", b"--c").removesuffix(b"\r\n")
    out = converted(mixed(signed, b"\r\ncaf\xe9 and so on"))
    assert signed in out
    assert b"caf=E9" in out


def test_a_long_line_is_converted_without_being_held() -> None:
    line = b"\xe9 and =\t" * 40_000
    message = MIME + b"Content-Type: text/plain\r\n\r\n" + line + b"\r\n"
    plan = survey(cut(message, 1000))
    pieces = list(convert(cut(message, 1000), plan))
    assert max(map(len, pieces)) < 30_000
    assert leaves(b"".join(pieces)) == [("text/plain", line + b"\r\n")]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b' multipart/mixed; boundary="a b"', b"a b"),
        (b' MULTIPART/Mixed;BOUNDARY=a;charset="x;boundary=c"', b"a"),
        (rb' multipart/mixed; boundary="a\"b" ;', b'a"b'),
        (b' multipart/mixed (boundary=x); boundary="(a)" (c)', b"(a)"),
    ],
)
def test_boundaries(value: bytes, found: bytes) -> None:
    assert content_type(uncommented(value)) == (b"multipart", b"mixed", found)


_SMALL = st.lists(
    st.sampled_from([b"\r\n", b"abc", "ü€😀".encode(), b"\xff" * 7, b".", b"x" * 12]), max_size=20
)


@given(_SMALL, st.integers(2, 9))
def test_long_lines_are_broken_by_a_space_and_characters_stay_whole(
    pieces: list[bytes], step: int
) -> None:
    folder, ends = Folder(10), LineEnds()
    message = b"".join(pieces) + b"\r\n"
    out = b"".join(folder.feed(ends.feed(each)) for each in cut(message, step))
    assert max(map(len, out.split(b"\r\n"))) <= 10
    assert out.replace(b"\r\n ", b"") == message
    if not long_lines(message, 10)[0]:
        assert out == message
    for before, after in zip(out.split(b"\r\n "), out.split(b"\r\n ")[1:], strict=False):
        if b"\xff" not in before + after:
            before.decode()
            after.decode()


def test_a_folded_line_is_still_stuffed() -> None:
    stuffer = DotStuffer(10)
    assert stuffer.feed(b"..345678901.\r\n.") + stuffer.finish() == (
        b"...34567890\r\n 1.\r\n..\r\n.\r\n"
    )
