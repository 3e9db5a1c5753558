"""A few hundred messages as people, programs and broken programs send them.

They are put together from parts by one generator with a fixed seed, so that the same
names stand for the same octets each time.  What makes mail hard to pass on unchanged is
all there: folds of every kind, 8-bit octets, long lines, dots at line starts, deep
multiparts, missing bodies, missing blank lines, odd spacing round the colon.
"""

from __future__ import annotations

import base64
import quopri
import random
from collections.abc import Callable, Iterator

CRLF = b"\r\n"

_ADDRESSES = (
    b"alice@example.net", b"Bob Builder <bob@example.org>",
    b'"Carol, the third" <carol@example.com>', b"dave+lists@example.net (Dave)",
    b"undisclosed-recipients:;", b"Friends: eve@example.org, mallory@example.com;",
    "Jörg Müller <joerg@example.net>".encode(), "山田太郎 <taro@example.org>".encode(),
    b"=?utf-8?B?SsO2cmc=?= <joerg@example.net>", b"J\xf6rg <joerg@example.net>",
    b"<@relay.example.com:frank@example.org>", b"grace@[192.0.2.7]",
)  # fmt: skip
_SUBJECTS = (
    b"Minutes of Tuesday", b"", b"Re: Re: AW: Fwd: the same again", b"=?iso-8859-1?Q?=A1Hola!?=",
    "Überweisung über 1.000 €".encode(), b"\xa3100 f\xfcr Sie", b"  two spaces first",
    b"tab\tinside", b"trailing space ", "\u202etxt.exe".encode(), b"a" * 900,
    b"=?utf-8?q?broken_encoded-word?", b"colon: in: it", b"[list] \x1b[31mred",
)  # fmt: skip
_WORDS = (
    "the", "mail", "gate", "queue", "letter", "please", "find", "attached", "regards", "größer",
    "naïve", "résumé", "server", "path", ".", "..", "...", "From", ">From", "--", "___",
    "http://example.net/?q=1", "meeting", "Thursday", "invoice", "北京", "Привет",
)  # fmt: skip


def build() -> list[tuple[str, bytes]]:
    """Every constructed message by its name."""
    found: dict[str, bytes] = {}
    for kind in (
        _plain, _folded, _eight_bit, _multipart, _encoded, _shapes, _lines, _lists, _reports,
    ):  # fmt: skip
        # Each kind has a generator of its own: a new kind leaves the others as they are.
        for name, octets in kind(random.Random(kind.__name__)):
            found[f"{kind.__name__[1:]}/{name}"] = octets
    return list(found.items())


Kind = Callable[[random.Random], Iterator[tuple[str, bytes]]]


def _text(source: random.Random, lines: int, charset: str = "utf-8") -> bytes:
    made = [" ".join(source.choices(_WORDS, k=source.randint(0, 12))) for _ in range(lines)]
    return CRLF.join(each.encode(charset, "replace") for each in made) + CRLF


def _trace(source: random.Random) -> list[bytes]:
    """Received fields as several programs write them."""
    styles = (
        b"from mx1.example.com (mx1.example.com [192.0.2.%d])\r\n\tby mx.example.net (Postfix) "
        b"with ESMTPS id 4Xab%d\r\n\tfor <alice@example.net>; Tue, 3 Jun 2025 10:11:12 +0200 "
        b"(CEST)",
        b"from [198.51.100.%d] (helo=laptop)\r\n by smtp.example.org with esmtpsa  "
        b"(TLS1.3:ECDHE:256)\r\n (Exim 4.96)\r\n id 1abc-%d; Tue, 03 Jun 2025 08:11:10 +0000",
        b"(qmail %d invoked by uid %d); 3 Jun 2025 08:11:09 -0000",
    )
    return [
        b"Received: " + source.choice(styles) % (source.randint(1, 250), source.randint(1, 9999))
        for _ in range(source.randint(0, 4))
    ]


def _head(source: random.Random, *more: bytes) -> list[bytes]:
    """The header fields that mail usually has, without their last CRLF."""
    usual = [
        b"Message-ID: <%08x.%d@example.net>" % (source.getrandbits(32), source.randint(1, 99)),
        b"Date: Tue, 3 Jun 2025 10:%02d:00 +0200" % source.randint(0, 59),
        b"From: " + source.choice(_ADDRESSES),
        b"To: " + source.choice(_ADDRESSES),
        b"Subject: " + source.choice(_SUBJECTS),
    ]
    extra = [
        b"MIME-Version: 1.0", b"User-Agent: Mutt/2.2.9 (2022-11-12)", b"X-Mailer: The Bat! 9",
        b"X-Originating-IP: [203.0.113.9]", b"Reply-To: " + source.choice(_ADDRESSES),
        b"In-Reply-To: <x@example.org>", b"Importance: high", b"X-Priority: 1 (Highest)",
        b"Authentication-Results: mx.example.net; dkim=pass header.d=example.org",
        b"X-Virus-Scanned: clamav at elsewhere",
    ]  # fmt: skip
    fields = usual + source.sample(extra, source.randint(0, 5)) + list(more)
    if source.random() < 0.3:
        source.shuffle(fields)
    return _trace(source) + fields


def _message(fields: list[bytes], body: bytes) -> bytes:
    return CRLF.join([*fields, b"", body])


def _plain(source: random.Random) -> Iterator[tuple[str, bytes]]:
    for number in range(40):
        charset = source.choice(("us-ascii", "utf-8", "iso-8859-15", "koi8-r"))
        fields = _head(source, b"Content-Type: text/plain; charset=" + charset.encode())
        yield f"{number:02}", _message(fields, _text(source, source.randint(0, 40), charset))


_UNSPACED = ("no-space", "tab-first", "empty", "blank-only", "after-colon", "after-colon-tab")


def _folded(source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Folds with one space, tabs, many of both, with nothing else on the line, right after
    the colon, before the CRLF, inside a quoted string, inside an encoded word."""
    folds = {
        "space": b"one\r\n two\r\n three", "tab": b"one\r\n\ttwo\r\n\tthree",
        "mixed": b"one\r\n \t two\r\n\t \tthree", "deep": b"one\r\n" + b" " * 70 + b"two",
        "blank-fold": b"one\r\n \r\n two", "blank-tab-fold": b"one\r\n\t\r\n\t\r\n\ttwo",
        "blank-last": b"one\r\n ", "blank-only": b"\r\n ", "after-colon": b"\r\n one",
        "after-colon-tab": b"\r\n\tone", "space-before-fold": b"one \t\r\n two",
        "quoted": b'"a\r\n b" <a@example.net>', "encoded": b"=?utf-8?Q?a?=\r\n =?utf-8?Q?b?=",
        "no-space": b"one", "tab-first": b"\tone", "two-spaces": b"  one", "empty": b"",
        "one-space": b" ", "many": b"x\r\n " * 300 + b"y", "long": b"word " * 180 + b"\r\n end",
        "comment": b"a@example.net (folded\r\n comment (nested\r\n\tdeep))",
        "looks-like-a-field": b"one\r\n Bcc: not@a.field", "dot": b"one\r\n .",
    }  # fmt: skip
    for name, value in folds.items():
        space = b"" if name in _UNSPACED else b" "
        for field in (b"Subject", b"X-Odd", b"DKIM-Signature"):
            fields = _head(source, field + b":" + space + value)
            yield f"{name}-{field.decode()}", _message(fields, _text(source, 3))


def _eight_bit(source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Raw 8-bit octets in values, in one charset or none."""
    values = {
        "utf-8": "Grüße aus 北京 🎉".encode(), "latin-1": b"Gr\xfc\xdfe", "koi8-r": b"\xf0\xd2\xc9",
        "shift-jis": "日本".encode("shift-jis"), "all-high": bytes(range(128, 256)),
        "broken-utf-8": b"\xc3\x28 \xe2\x82 \xff\xfe", "overlong": b"\xc0\xaf\xe0\x80\xaf",
        "bom": b"\xef\xbb\xbfvalue", "c1": b"a\x85b\x9bc",
        "controls": b"a\x01\x07\x0b\x0c\x1f\x7fb",
        "nbsp-fold": b"a\r\n \xa0\r\n \xc2\xa0b", "folded-inside-char": b"\xe4\r\n \xb8\xad",
    }  # fmt: skip
    for name, value in values.items():
        for field in (b"Subject", b"X-Raw", b"From"):
            fields = _head(source, field + b": " + value, b"Content-Transfer-Encoding: 8bit")
            yield f"{name}-{field.decode()}", _message(fields, value.replace(CRLF, b"") + CRLF)


def _part(fields: list[bytes], body: bytes) -> bytes:
    return CRLF.join([*fields, b"", body])


def _joined(boundary: bytes, parts: list[bytes], *, closed: bool = True) -> bytes:
    marked = b"".join(b"--" + boundary + CRLF + each + CRLF for each in parts)
    return marked + (b"--" + boundary + b"--\r\n" if closed else b"")


def _leaf(source: random.Random) -> bytes:
    octets = source.randbytes(source.randint(0, 300))
    if source.random() < 0.5:
        return _part(
            [b"Content-Type: application/octet-stream; name*=utf-8''%C3%BC.bin",
             b"Content-Transfer-Encoding: base64",
             b'Content-Disposition: attachment;\r\n\tfilename="ue.bin"'],
            base64.encodebytes(octets).replace(b"\n", CRLF),
        )  # fmt: skip
    return _part([b"Content-Type: text/plain; charset=utf-8"], _text(source, 4))


def _nested(source: random.Random, depth: int) -> tuple[bytes, bytes]:
    """Content-Type and body of a multipart so many levels deep."""
    boundary = b"=_%d_%08x" % (depth, source.getrandbits(32))
    parts = [_leaf(source) for _ in range(source.randint(1, 3))]
    if depth > 1:
        kind, inner = _nested(source, depth - 1)
        parts.insert(source.randint(0, len(parts)), _part([kind], inner))
    subtype = source.choice((b"mixed", b"alternative", b"related", b"signed"))
    kind = b'Content-Type: multipart/%b;\r\n boundary="%b"' % (subtype, boundary)
    preamble = source.choice((b"", b"This is a MIME message.\r\n", b"\r\n"))
    return kind, preamble + _joined(boundary, parts) + source.choice((b"", b"epilogue\r\n"))


def _multipart(source: random.Random) -> Iterator[tuple[str, bytes]]:
    for number in range(24):
        kind, body = _nested(source, 1 + number // 4)
        yield f"depth-{number:02}", _message(_head(source, b"MIME-Version: 1.0", kind), body)
    kind, body = _nested(source, 60)
    yield "depth-60", _message(_head(source, kind), body)
    inner = _message(_head(source), _text(source, 5))
    yield "forwarded", _message(_head(source, b"Content-Type: message/rfc822"), inner)
    open_end = _joined(b"b", [_leaf(source)], closed=False)
    kind = b"Content-Type: multipart/mixed; boundary=b"
    yield "unclosed", _message(_head(source, kind), open_end)
    yield "no-boundary", _message(_head(source, b"Content-Type: multipart/mixed"), open_end)
    kind = b"Content-Type: multipart/mixed; boundary=" + b"x" * 70
    yield "boundary-never-seen", _message(_head(source, kind), _text(source, 5))


def _encoded(source: random.Random) -> Iterator[tuple[str, bytes]]:
    for number in range(12):
        text = _text(source, 20)
        as_base64 = base64.encodebytes(text).replace(b"\n", CRLF)
        as_quoted = quopri.encodestring(text.replace(CRLF, b"\n")).replace(b"\n", CRLF)
        for name, body in (("base64", as_base64), ("quoted-printable", as_quoted)):
            encoding = b"Content-Transfer-Encoding: " + name.encode()
            yield f"{name}-{number:02}", _message(_head(source, encoding), body)


def _shapes(source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Where header and body meet, or do not."""
    field = b"From: alice@example.net"
    yield "no-body", field + b"\r\n\r\n"
    yield "no-blank-line", field + b"\r\n"
    yield "many-fields-no-blank-line", CRLF.join(_head(source)) + CRLF
    yield "blank-line-first", b"\r\nall of it is body\r\n"
    yield "only-blank-line", b"\r\n"
    yield "body-without-blank-line", field + b"\r\nthis line is no field\r\nnor this\r\n"
    yield "no-header", b"this line is no field\r\n\r\nand this is another\r\n"
    yield (
        "mbox-from-first",
        b"From alice@example.net Tue Jun  3 10:00:00 2025\r\n" + field + b"\r\n\r\nx\r\n",
    )
    yield "mbox-from-quoted", b">From alice\r\n" + field + b"\r\n\r\nx\r\n"
    yield "continuation-first", b" a continuation of nothing\r\n" + field + b"\r\n\r\nx\r\n"
    yield "space-before-colon", b"From : alice@example.net\r\nTo\t : bob\r\n\r\nx\r\n"
    yield "empty-field-name", b": value\r\n" + field + b"\r\n\r\nx\r\n"
    yield "odd-field-names", b"!#$%&'*+-.^_`|~: 1\r\nX{}[]()<>: 2\r\n@: 3\r\n\r\nx\r\n"
    yield "eight-bit-field-name", field + b"\r\nSubj\xe9ct: x\r\n\r\nx\r\n"
    yield "utf-8-field-name", field + "\r\nBetreff-Ä: x\r\n\r\nx\r\n".encode()
    yield "same-field-often", b"Received: x\r\n" * 60 + field + b"\r\n\r\nx\r\n"
    yield "two-of-each", (field + b"\r\nSubject: a\r\n") * 2 + b"\r\nx\r\n"
    yield "mixed-case", b"fRoM: alice\r\nFROM: bob\r\nfrom: carol\r\n\r\nx\r\n"
    yield "blank-lines-only-body", field + b"\r\n\r\n" + CRLF * 50
    yield "white-space-line", field + b"\r\n \t \r\n\r\nx\r\n"
    yield "white-space-body", field + b"\r\n\r\n \r\n\t\r\n  \t \r\n"
    yield "header-in-body", field + b"\r\n\r\nSubject: not a field\r\n folded\r\n\r\nx\r\n"
    yield "one-octet", b"x\r\n"
    yield "name-only-crlf", b"Subject:\r\n"


def _lines(source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Line lengths, and dots where SMTP cares for them (RFC 5321 section 4.5.2)."""
    fields = _head(source)
    for name, lines in {
        "dots": [b".", b"..", b"...", b". ", b".x", b" .", b"x.", b""],
        "dot-last": [b"text", b"."], "dot-first": [b".", b"text"], "only-dot": [b"."],
        "dot-commands": [b".", b"MAIL FROM:<x@example.net>", b".", b"QUIT"],
        "998": [b"x" * 998], "999": [b"x" * 998, b"y" * 998], "dots-998": [b"." * 998],
        "empty": [b""] * 2000, "from": [b"From here", b">From there", b"FROM"],
        "many": [b"%d" % each for each in range(3000)], "spaces-last": [b"x  ", b"\t", b"y\t "],
    }.items():  # fmt: skip
        yield name, _message(fields, CRLF.join(lines) + CRLF)
    for size in (65533, 65534, 65535, 65536, 131070, 200_000):
        body = (b"z" * 76 + CRLF) * (size // 78 + 1)
        yield f"body-of-{size}", _message(fields, body[: size - 2] + CRLF)


def _lists(source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Mail from mailing lists and bulk senders, already signed by somebody."""
    for number in range(12):
        signature = base64.b64encode(source.randbytes(256)).decode()
        folded = "\r\n\t ".join(signature[at : at + 60] for at in range(0, len(signature), 60))
        fields = [
            b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.org;\r\n"
            b"\ts=s%d; h=From:To:\r\n\t Subject; bh=AAAA;\r\n\tb=%b" % (number, folded.encode()),
            b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=example.com; s=arc; b=AAAA",
            b"List-Id: The list <list.example.org>", b"Precedence: bulk",
            b"List-Unsubscribe: <mailto:leave@example.org>,\r\n <https://example.org/leave?u=%d>"
            % number,
        ]  # fmt: skip
        yield f"{number:02}", _message(fields + _head(source), _text(source, 12))


def _reports(source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Delivery reports, from the null sender."""
    for number, action in enumerate((b"failed", b"delayed", b"delivered", b"relayed")):
        status = b"Final-Recipient: rfc822; bob@example.org\r\nAction: %b\r\nStatus: 5.1.1" % action
        parts = [
            _part([b"Content-Description: Notification"], _text(source, 4)),
            _part(
                [b"Content-Type: message/delivery-status"],
                b"Reporting-MTA: dns; mx.example.net\r\n\r\n" + status + CRLF,
            ),
            _part([b"Content-Type: text/rfc822-headers"], CRLF.join(_head(source)) + CRLF),
        ]
        kind = b"Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=rep"
        fields = _head(source, kind, b"Auto-Submitted: auto-replied", b"Return-Path: <>")
        yield f"{number}-{action.decode()}", _message(fields, _joined(b"rep", parts))
