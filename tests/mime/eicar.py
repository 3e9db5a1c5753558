"""Mails that hide the harmless test file of the virus scanners behind doubtful MIME, one for each
of the tricks that are known."""

from __future__ import annotations

import base64
import binascii
import quopri
from dataclasses import dataclass

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
B64 = base64.b64encode(EICAR)
FOLDED = b"\r\n".join(B64[at : at + 20] for at in range(0, len(B64), 20))
QP = quopri.encodestring(EICAR).replace(b"\n", b"\r\n")
UU = b"begin 644 a.com\r\n" + b"".join(
    binascii.b2a_uu(EICAR[at : at + 45]).replace(b"\n", b"\r\n") for at in range(0, len(EICAR), 45)
) + b"`\r\nend\r\n"  # fmt: skip
ESCAPED = b"".join(b"=%02x" % each for each in EICAR)
YENC = bytes((each + 42) % 256 for each in EICAR)


@dataclass(frozen=True)
class Case:
    """`header` is added to a mail that has From; `plain` says that clamd may do without us."""

    name: str
    header: bytes
    body: bytes

    @property
    def octets(self) -> bytes:
        return b"From: a@example.net\r\nSubject: x\r\n" + self.header + b"\r\n" + self.body


def _multipart(boundary: bytes, *parts: bytes, end: bool = True) -> bytes:
    lines = b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts)
    return lines + (b"--%b--\r\n" % boundary if end else b"")


ATTACHED = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
TEXT = b"Content-Type: text/plain\r\n\r\nhello\r\n"
MIXED = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"


def _typed(value: bytes) -> bytes:
    return b"MIME-Version: 1.0\r\nContent-Type: " + value + b"\r\n"


def _encoded(value: bytes) -> bytes:
    return ATTACHED.replace(b"base64", value)


CASES = (
    Case("two types, last good", _typed(b"text/plain") + MIXED[19:],
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("two types, first good", MIXED + b"Content-Type: text/plain\r\n",
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("two encodings", MIXED, _multipart(
        b"b", TEXT, b"Content-Transfer-Encoding: 7bit\r\n" + ATTACHED + FOLDED + b"\r\n")),
    Case("two boundaries", _typed(b"multipart/mixed; boundary=a; boundary=b"),
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("boundaries with a comma", _typed(b"multipart/mixed; boundary=a,b"),
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("a boundary with a space at its end", _typed(b'multipart/mixed; boundary="b "'),
         _multipart(b"b ", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("a boundary with an open quote", _typed(b'multipart/mixed; boundary="b'),
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("an empty boundary", _typed(b'multipart/mixed; boundary=""'),
         _multipart(b"", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("a boundary with a comment", _typed(b"multipart/mixed; boundary=b (c)"),
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("a boundary in pieces", _typed(b"multipart/mixed; boundary*0=a; boundary*1=b"),
         _multipart(b"ab", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("a boundary as an encoded word", _typed(b'multipart/mixed; boundary="=?us-ascii?q?b?="'),
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("no boundary", _typed(b"multipart/mixed"),
         _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("encoding base64x", MIXED, _multipart(b"b", _encoded(b"base64x") + FOLDED + b"\r\n")),
    Case("encoding in quotes", MIXED, _multipart(b"b", _encoded(b'"base64"') + FOLDED + b"\r\n")),
    Case("encoding with a comment", MIXED,
         _multipart(b"b", _encoded(b"base64 (c)") + FOLDED + b"\r\n")),
    Case("an encoded multipart",
         MIXED + b"Content-Transfer-Encoding: base64\r\n",
         base64.encodebytes(_multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n"))
         .replace(b"\n", b"\r\n")),
    Case("junk in base64", MIXED,
         _multipart(b"b", ATTACHED + FOLDED.replace(b"E", b"!E") + b"\r\n")),
    Case("one letter a line", MIXED,
         _multipart(b"b", ATTACHED + b"".join(b"%c\r\n" % each for each in B64))),
    Case("no padding", MIXED, _multipart(b"b", ATTACHED + FOLDED.rstrip(b"=") + b"\r\n")),
    Case("base64 in two", MIXED, _multipart(
        b"b", ATTACHED + base64.b64encode(EICAR[:34]) + b"\r\n" + base64.b64encode(EICAR[34:])
        + b"\r\n")),
    Case("letters before base64", MIXED, _multipart(b"b", ATTACHED + b"x\r\n" + FOLDED + b"\r\n")),
    Case("lower case escapes", MIXED,
         _multipart(b"b", _encoded(b"quoted-printable") + ESCAPED + b"\r\n")),
    Case("loose soft breaks", MIXED, _multipart(
        b"b", _encoded(b"quoted-printable") + ESCAPED[:90] + b"= \r\n" + ESCAPED[90:]
        + b"=G1\r\n")),
    Case("quoted-printable by the wrong name", MIXED,
         _multipart(b"b", _encoded(b"quoted-printable2") + ESCAPED + b"\r\n")),
    Case("before the first part", MIXED, ATTACHED + FOLDED + b"\r\n" + _multipart(b"b", TEXT)),
    Case("after the last part", MIXED, _multipart(b"b", TEXT) + ATTACHED + FOLDED + b"\r\n"),
    Case("after a cut boundary", MIXED, _multipart(b"b", TEXT, end=False) + b"--bb\r\n" + ATTACHED
         + FOLDED + b"\r\n"),
    Case("no end", MIXED, _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n", end=False)),
    Case("an encoded message",
         _typed(b"message/rfc822") + b"Content-Transfer-Encoding: base64\r\n",
         base64.encodebytes(MIXED + b"\r\n" + _multipart(b"b", ATTACHED + FOLDED + b"\r\n"))
         .replace(b"\n", b"\r\n")),
    Case("no MIME-Version", MIXED[19:], _multipart(b"b", TEXT, ATTACHED + FOLDED + b"\r\n")),
    Case("uuencoded in text", b"", b"look at this\r\n" + UU),
    Case("yEnc in text", b"", b"look\r\n=ybegin line=128 size=68 name=a.com\r\n"
         + YENC.replace(b"=", b"==") + b"\r\n=yend size=68\r\n"),
    Case("a part's header that is none", MIXED,
         _multipart(b"b", b"no field\r\n" + ATTACHED + FOLDED + b"\r\n")),
    Case("white space before the colon", MIXED,
         _multipart(b"b", ATTACHED.replace(b"Encoding:", b"Encoding :") + FOLDED + b"\r\n")),
    Case("NUL in an encoding", MIXED,
         _multipart(b"b", _encoded(b"b\0ase64") + FOLDED + b"\r\n")),
)  # fmt: skip
