"""Messages as mail has them: CPython's own, and some hundreds made to be awkward.

All have CRLF line ends, the last line too, as mail on the road has, and no NUL.  Those
made here come from a fixed seed, so a failure names a message that is the same tomorrow;
each is one choice for every part of a message (header form, folding, body, separator),
so that the parts meet in many combinations.  Those of :mod:`tests.corpus.kinds` go
through one kind of awkwardness after the other, form by form.
"""

from __future__ import annotations

import base64
import functools
import quopri
import random
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from tests.corpus.kinds import build

_BARE = re.compile(rb"\r\n|\r|\n")
MADE = 240


@functools.cache
def messages() -> list[tuple[str, bytes]]:
    """All of them, by name."""
    return [*cpython(), *made(), *by_kind()]


@functools.cache
def by_kind() -> list[tuple[str, bytes]]:
    """The messages of :mod:`tests.corpus.kinds`."""
    return build()


@functools.cache
def cpython() -> list[tuple[str, bytes]]:
    """The messages that CPython ships for the tests of its email package, from the
    interpreter that runs or from Debian's.

    Raises FileNotFoundError, naming the package that has them.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for stdlib in (Path(sysconfig.get_path("stdlib")), Path("/usr/lib") / version):
        found = sorted((stdlib / "test" / "test_email" / "data").glob("msg_*.txt"))
        if found:
            return [(f"cpython-{each.stem}", _ended(crlf(each.read_bytes()))) for each in found]
    raise FileNotFoundError(
        f"CPython's messages are not installed: `make test` installs them (Debian package "
        f"lib{version}-testsuite)"
    )


def crlf(octets: bytes) -> bytes:
    """With every line end CRLF."""
    return _BARE.sub(b"\r\n", octets)


def _ended(octets: bytes) -> bytes:
    """With an end of the last line."""
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


Dice = random.Random


def _subject(dice: Dice) -> bytes:
    return dice.choice(
        [
            b"Subject: plain words",
            b"Subject:no space after the colon",
            b"Subject:  two spaces before, two behind  ",
            b"Subject:\ta tab before",
            b"Subject: =?utf-8?q?M=C3=A4rz?= =?iso-8859-1?Q?_und_=FCber?=",
            b"Subject: =?utf-8?B?" + base64.b64encode("Zwölf Boxkämpfer".encode()) + b"?=",
            "Subject: rohe Umlaute äöü, ungefaltet".encode(),
            b"Subject: latin-1 \xe4\xf6\xfc raw",
            b"Subject: \xff\xfe neither UTF-8 nor anything",
            b"Subject: folded\r\n once",
            b"Subject: folded\r\n\twith a tab\r\n  and two spaces",
            b"Subject:\r\n folded at once",
            b"Subject:\r\n \r\n a fold of nothing but white space",
            b"Subject: ends in a fold of white space\r\n ",
            b"Subject:",
            b"Subject: ",
            b"Subject : a space before the colon",
            b"SUBJECT: shouted",
            b"sUbJeCt: odd case",
            b"Subject: " + b"x" * 900,
            b"Subject: " + b"long words " * 300,
            b"Subject: a;b,c:d <e@f> \"g\" (h) [i] {j} %k %%l $m \\n 'o'",
            b"Subject: separators \x0b\x0c\x1c\x1d\x1e inside",
            "Subject: \u0085 \u2028 line separators of Unicode".encode(),
        ]
    )


def _from(dice: Dice) -> bytes:
    return dice.choice(
        [
            b"From: a@example.net",
            b"From: A Name <a@example.net>",
            b'From: "Quoted, Name" <a@example.net>',
            b"From: =?utf-8?q?J=C3=BCrgen?= <a@example.net>",
            "From: Jürgen <a@example.net>".encode(),
            b"From: A Name (with (nested) comments)\r\n <a@example.net>",
            b"From:a@example.net",
            b'From: "\\"escaped\\"" <a@example.net>',
            b"From: <a@example.net>",
            b"From: a@EXAMPLE.net",
        ]
    )


def _others(dice: Dice) -> list[bytes]:
    pool = [
        b"To: u@example.net",
        b"To: " + b",\r\n\t".join(b"user%d@example.net" % n for n in range(40)),
        b"Cc: friends:u@example.net, v@example.net;",
        b"Date: Sat, 21 Nov 2026 10:11:12 +0000",
        b"Date: Sat, 21 Nov 2026 10:11:12 +0000 (some zone)",
        b"Message-ID: <1.2.3@example.net>",
        b"Message-Id:\r\n <very-long-" + b"0" * 80 + b"@example.net>",
        b"References: " + b"\r\n ".join(b"<%d@example.net>" % n for n in range(60)),
        b"User-Agent: Something/1.0",
        b"X-Mailer: Another 2.0\r\n (build 5)",
        b"X-Originating-IP: [192.0.2.1]",
        b"Received: from a (b [192.0.2.7])\r\n\tby c with ESMTP id d;\r\n\t"
        b"Sat, 21 Nov 2026 10:11:12 +0000",
        b"Received: from e by f; Sat, 21 Nov 2026 10:11:10 +0000",
        b"X-Virus-Scanned: by somebody else",
        b"Authentication-Results: mx.example.net; spf=pass",
        b"X-Empty:",
        b"X-Spaces:    ",
        b"X-Dup: 1",
        b"X-Dup: 2",
        b"x-dup: 3",
        b"X-!#$%&'*+-^_`|~: odd but legal name",
        b"X-Face: " + b"".join(bytes([33 + n % 94]) for n in range(400)),
        b"Reply-To: undisclosed:;",
        b"List-Unsubscribe: <mailto:x@example.net?subject=u>,\r\n\t<https://example.net/u?a=b&c=d>",
    ]
    return dice.sample(pool, dice.randint(0, 9))


def _text(_: Dice) -> tuple[list[bytes], bytes]:
    return [], b"Hello,\r\n\r\nsome lines.\r\n-- \r\nme\r\n"


def _dots(_: Dice) -> tuple[list[bytes], bytes]:
    return [], b".\r\n..\r\n.x\r\n...three\r\n. \r\n\r\n.\r\n"


def _nothing(_: Dice) -> tuple[list[bytes], bytes]:
    return [], b""


def _blank_lines(_: Dice) -> tuple[list[bytes], bytes]:
    return [], b"\r\n\r\nx\r\n\r\n\r\n\r\n"


def _white_space(_: Dice) -> tuple[list[bytes], bytes]:
    return [], b" \r\n\t\r\n leading\r\ntrailing \t \r\nin  the\tmiddle\r\n \t\r\n"


def _long_lines(dice: Dice) -> tuple[list[bytes], bytes]:
    return [], b"\r\n".join(
        b"z" * dice.choice([76, 998, 999, 2049, 9000]) for _ in range(6)
    ) + b"\r\n"


def _eight_bit(dice: Dice) -> tuple[list[bytes], bytes]:
    octets = bytes(each for each in dice.randbytes(3000) if each not in b"\0\r\n")
    extra = [b"MIME-Version: 1.0", b"Content-Transfer-Encoding: 8bit"]
    return extra, octets[:900] + b"\r\n" + octets[900:1800] + b"\r\n"


def _utf8(_: Dice) -> tuple[list[bytes], bytes]:
    extra = [b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=utf-8"]
    return extra, "Straße, naïve, 日本語, 🙂\r\n".encode() * 20


def _quoted(_: Dice) -> tuple[list[bytes], bytes]:
    extra = [b"MIME-Version: 1.0", b"Content-Transfer-Encoding: quoted-printable"]
    return extra, crlf(
        quopri.encodestring("Ein längerer Satz, und noch einer. ".encode() * 12)
    ) + b"\r\n"


def _multipart(dice: Dice) -> tuple[list[bytes], bytes]:
    depth = dice.randint(1, 6)
    body = b"Content-Type: text/plain\r\n\r\ninnermost\r\n"
    boundary = b"--b0"
    for level in range(depth):
        boundary = b"=_%d_%d" % (level, dice.randint(0, 10**9))
        kind = b'Content-Type: multipart/mixed;\r\n boundary="%b"\r\n\r\n' % boundary
        parts = [
            body,
            b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            + crlf(base64.encodebytes(dice.randbytes(200))),
        ]
        inner = b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts)
        if level == depth - 1:
            return (
                [b"MIME-Version: 1.0", kind.removesuffix(b"\r\n\r\n")],
                b"preamble\r\n" + inner + b"--%b--\r\nepilogue\r\n" % boundary,
            )
        body = kind + inner + b"--%b--\r\n" % boundary
    raise AssertionError("depth is at least 1")


def _attached_mail(_: Dice) -> tuple[list[bytes], bytes]:
    extra = [b"MIME-Version: 1.0", b"Content-Type: message/rfc822"]
    return (
        extra,
        b"From: x@example.org\r\nSubject: inside\r\nReceived: from here\r\n\r\nbody inside\r\n",
    )


def _large(dice: Dice) -> tuple[list[bytes], bytes]:
    extra = [b"MIME-Version: 1.0", b"Content-Transfer-Encoding: base64"]
    return extra, crlf(base64.encodebytes(dice.randbytes(dice.choice([49_000, 50_000, 120_000]))))


def _chunk_edges(dice: Dice) -> tuple[list[bytes], bytes]:
    """Line ends that fall on the edges of 65535-octet pieces."""
    size = 65535 + dice.choice([-2, -1, 0, 1, 2])
    return [], b"a" * (size - 2) + b"\r\n" + b"b" * (size - 1) + b"\r\n.c\r\n"


def _like_a_header(_: Dice) -> tuple[list[bytes], bytes]:
    return (
        [],
        b"Subject: not a header\r\n X: nor this\r\nFrom someone at some time\r\n>From quoted\r\n",
    )


_BODIES: list[Callable[[Dice], tuple[list[bytes], bytes]]] = [
    _text, _dots, _nothing, _blank_lines, _white_space, _long_lines, _eight_bit, _utf8, _quoted,
    _multipart, _attached_mail, _large, _chunk_edges, _like_a_header,
]  # fmt: skip


def _make(dice: Dice, number: int) -> bytes:
    extra, body = _BODIES[number % len(_BODIES)](dice)
    fields = [_from(dice), _subject(dice), *_others(dice), *extra]
    dice.shuffle(fields)
    if number % 29 == 0:
        fields = []
    header = b"".join(each + b"\r\n" for each in fields)
    if not body and number % 2:
        return header or b"\r\n"  # a message that ends with its header
    return header + b"\r\n" + body


@functools.cache
def made() -> list[tuple[str, bytes]]:
    """The made ones."""
    dice = random.Random(5321)
    return [(f"made-{number:03}", _make(dice, number)) for number in range(MADE)]
