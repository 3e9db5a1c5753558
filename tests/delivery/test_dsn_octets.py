"""Whatever stands in an envelope, in a peer's words or in a mail: its notification is well-formed,
and none of it becomes a field, a line or a part of its own."""

from __future__ import annotations

import email
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milterd.core.mail import BytesBody
from smtpgw.address.params import encode_xtext
from smtpgw.delivery.encode import convert, convertible, survey
from smtpgw.dsn import fields, text
from smtpgw.dsn.build import build
from smtpgw.dsn.original import message_id, original
from smtpgw.dsn.report import Action, DsnOptions, Letter, News, Report, Reported
from smtpgw.queue.store import Content

_STATUS = {
    "original-envelope-id", "reporting-mta", "received-from-mta", "arrival-date",
    "x-gatepost-queue-id", "x-gatepost-sender", "original-recipient", "final-recipient",
    "action", "status", "remote-mta", "diagnostic-code", "last-attempt-date", "final-log-id",
    "will-retry-until",
}  # fmt: skip
_HEADER = [
    "from", "to", "subject", "date", "message-id", "in-reply-to", "references",
    "auto-submitted", "mime-version", "content-type", "content-transfer-encoding",
]  # fmt: skip

_nasty = st.sampled_from(
    [
        b"\r\nX-Evil: 1\r\n\r\n", b"\r\n.\r\n", b"\n", b"\r", b"\0", b"\xff", "é".encode(),
        b"--=_0123456789abcdef", b"<", b">", b'"', b" ", b"\t", b"\xe2\x80\xa8", b"+0D+0A",
        rb"\x{D}\x{A}", rb"\x{110000}", rb"\x{D800}", b";", b"x" * 1200, b"\xe2\x80\xae",
    ]
)  # fmt: skip
_octets = st.lists(_nasty | st.binary(max_size=12), max_size=6).map(b"".join)
_addresses = _octets | st.sampled_from([b"a@example.com", "ü@exämple.net".encode(), b""])
_args = st.lists(
    st.builds(
        lambda name, value: name + b"=" + value,
        st.sampled_from([b"NOTIFY", b"ORCPT", b"RET", b"ENVID"]),
        _octets | _octets.map(lambda each: b"utf-8;" + each) | st.just(b"HDRS"),
    ),
    max_size=3,
).map(tuple)
_words = _octets.map(lambda each: each.decode("utf-8", "backslashreplace")) | st.text(max_size=50)


@st.composite
def _reports(draw: st.DrawFn) -> Report:
    recipients = st.builds(
        Reported,
        _addresses,
        _args,
        st.sampled_from(Action),
        st.sampled_from(["5.1.1", "4.4.7", "2.0.0", "5.7.26"]),
        _words,
        _words,
        st.booleans(),
    )
    return Report(
        queue_id="0123456789abcd",
        sender=draw(_addresses),
        sender_args=(*draw(_args), *draw(st.sampled_from([(), (b"SMTPUTF8",)]))),
        content=Content(draw(_octets) + b"\r\n\r\n", BytesBody(draw(_octets))),
        arrived=1_700_000_000.0,
        recipients=tuple(draw(st.lists(recipients, min_size=1, max_size=3))),
        helo=draw(_octets),
        attempted=draw(st.sampled_from([None, 1_700_000_300.0])),
        retry_until=draw(st.sampled_from([None, 1_700_400_000.0])),
    )


def _blocks(source: bytes) -> list[list[str]]:
    """The names of the fields of each block, by the octets themselves."""
    blocks = re.sub(rb"\r\n[ \t]", b" ", source).split(b"\r\n\r\n")
    return [
        [line.partition(b":")[0].decode().lower() for line in block.split(b"\r\n") if line]
        for block in blocks
    ]


def _report(
    sender: bytes,
    args: tuple[bytes, ...] = (),
    rcpt_args: tuple[bytes, ...] = (),
    said: str = "no",
    head: bytes = b"Subject: x\r\n\r\n",
    body: bytes = b"\xff\r\n",
) -> Report:
    told = Reported(b"b@x", rcpt_args, Action.FAILED, "5.0.0", said, "\r\n")
    return Report("0123456789abcd", sender, args, Content(head, BytesBody(body)), 0.0, (told,))


@settings(max_examples=100, deadline=None)
@given(_reports(), st.sampled_from(News), st.booleans())
@example(
    _report(b"a@x", (b"ENVID=a\r\nb",), (b"ORCPT=rfc822;a\r\nX: y",), "a\r\nb"), News.FAILURE, False
)
@example(_report(b"a@x", body=b"bare\nline feed\r\n"), News.FAILURE, False)
@example(_report(b"a@x", body=b"x" * 999 + b"\r\n"), News.FAILURE, False)
@example(_report(b"a@x", body=b"--=_0123456789abcdef--\r\n"), News.FAILURE, False)
@example(_report(b"a>\r\nX-Evil: 1\r\n\r\n<@x"), News.FAILURE, False)
@example(_report("ü@x".encode(), rcpt_args=(b"ORCPT=utf-8;" + b"x" * 2000,)), News.DELAY, False)
def test_no_octets_break_it(report: Report, news: News, copy: bool) -> None:
    to = b"postmaster@gw" if copy else report.sender
    taken = iter(["0123456789abcdef", "fedcba9876543210"])
    mail = build(
        report,
        Letter(news, to, copy=copy and news in (News.FAILURE, News.DELAY)),
        DsnOptions("gw.example"),
        now=1_700_000_400.0,
        queue_id="dsn45678901234",
        token=lambda: next(taken),
    )
    octets = b"".join(mail.pieces())
    lines = octets.split(b"\r\n")
    assert not any(b"\r" in each or b"\n" in each or b"\0" in each for each in lines)
    assert max(map(len, lines)) <= 998
    assert [each.name.decode().lower() for each in mail.headers] == [
        each for each in _HEADER if each in {h.name.decode().lower() for h in mail.headers}
    ]
    parsed = email.message_from_bytes(octets)
    assert [key.lower() for key in parsed.keys()] == [  # noqa: SIM118 - fields may repeat
        each.name.decode().lower() for each in mail.headers
    ]
    assert not parsed.defects
    boundary = parsed.get_param("boundary")
    assert isinstance(boundary, str)
    parts = octets.partition(b"\r\n\r\n")[2].split(b"--" + boundary.encode())
    assert len(parts) == 5
    assert parts[-1] == b"--\r\n"
    head, _, status = parts[2].removesuffix(b"\r\n").partition(b"\r\n\r\n")
    assert (b"global-delivery-status" in head) == (not status.isascii())
    assert status.isascii() or b"SMTPUTF8" in mail.envelope.sender_args
    blocks = _blocks(status)
    assert len(blocks) == 1 + len(report.recipients)
    for each in blocks:
        assert set(each) <= _STATUS
        assert len(each) == len(set(each))
    status.decode("utf-8")
    assert octets.isascii() or b"BODY=8BITMIME" in mail.envelope.sender_args


@settings(max_examples=60, deadline=None)
@given(_reports(), st.booleans())
@example(_report(b"a@x", head=b"Subject: caf\xe9\r\n\r\n"), True)
@example(_report(b"a@x", head=b"Content-Type: multipart/signed\r\n\r\n"), True)
@example(_report(b"a@x", head=b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"), True)
@example(_report(b"a@x"), True)
def test_every_notification_can_go_to_a_peer_of_7_bits(report: Report, full: bool) -> None:
    """Nobody is told of a notification that cannot be delivered."""
    taken = iter(["0123456789abcdef", "fedcba9876543210"])
    mail = build(
        report,
        Letter(News.FAILURE, b"a@x", full=full),
        DsnOptions("gw.example"),
        now=1_700_000_400.0,
        queue_id="dsn45678901234",
        token=lambda: next(taken),
        movable=convertible,
    )
    octets = b"".join(mail.pieces())
    converted = b"".join(convert([octets], survey([octets])))
    assert converted.isascii()
    assert len(email.message_from_bytes(converted).get_payload()) == 3


@settings(max_examples=60, deadline=None)
@given(_octets)
def test_a_fold_only_folds(octets: bytes) -> None:
    field = f"X: {text.one_line(octets)}".rstrip()
    folded = text.fold(field)
    assert folded.replace(b"\r\n ", b" ") == field.encode() + b"\r\n"
    assert all(each.strip() for each in folded.removesuffix(b"\r\n").split(b"\r\n"))


@settings(max_examples=60, deadline=None)
@given(_octets)
def test_quoted_printable_gives_every_octet_back(octets: bytes) -> None:
    coded = text.quoted_printable(octets)
    part = email.message_from_bytes(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + coded)
    assert part.get_payload(decode=True) == octets
    assert coded.isascii()
    assert max(map(len, coded.split(b"\r\n"))) <= 76


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=90))
def test_xtext_is_decoded_for_the_report(words: str) -> None:
    """ENVID and ORCPT stand there as the sender's system meant them (RFC 3464 2.2.1, 2.3.1)."""
    coded = encode_xtext(words.encode())
    shown = Reported(b"b@x", (b"ORCPT=rfc822;" + coded,), Action.FAILED, "5.0.0", "")
    report = Report(
        "0123456789abcd", b"a@x", (b"ENVID=" + coded,),
        Content(b"\r\n", BytesBody()), 0.0, (shown,),
    )  # fmt: skip
    octets = re.sub(rb"\r\n ", b" ", fields.status(report, DsnOptions("gw"), wide=False))
    found = dict(line.split(b":", 1) for line in octets.split(b"\r\n") if line)
    assert found[b"Original-Envelope-Id"].strip() == words.strip().encode()
    assert found[b"Original-Recipient"].strip() == b"rfc822;" + words.strip().encode()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b" <1@a.example>", b"<1@a.example>"),
        (b"\r\n <1@a.example> ", b"<1@a.example>"),
        (b" <1@a>, <2@b>", b""),
        (b" <1@a\r\n X: y>", b""),
        (b" <1@\xffa>", b""),
        (b" <%b@a>" % (b"x" * 300), b""),
        (b" 1@a", b""),
    ],
)
def test_only_a_plain_message_id_is_referred_to(value: bytes, kept: bytes) -> None:
    head = b"Subject: x\r\nmessage-id:" + value + b"\r\n\r\n"
    assert message_id(Content(head, BytesBody())) == kept


def test_a_header_is_cut_between_fields() -> None:
    head = b"A: 1\r\nB: 2\r\n\tfolded\r\nC: 3\r\n\r\n"
    cut = [
        original(_report(b"a@x", head=head), full=False, room=room).octets
        for room in (27, 26, 20, 12, 5)
    ]
    assert cut == [head[:-2], head[:21], b"A: 1\r\n", b"A: 1\r\n", b""]
