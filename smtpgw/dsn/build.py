"""A notification as one mail: multipart/report (RFC 6522), its header and its envelope.

Its sender is the null one and its NOTIFY is NEVER, so it never causes another; a peer's
words stand in it as printable text only; and the whole keeps to `bounce_size_limit`, as
far as the list of recipients allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from milterd.core.mail import (
    BytesBody,
    Direction,
    Envelope,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from smtpgw.address.path import PathError, parse_path
from smtpgw.dsn import envelope, fields, words
from smtpgw.dsn.original import Movable, Part, anything, message_id, original
from smtpgw.dsn.report import DsnOptions, Letter, News, Report
from smtpgw.dsn.text import LINE, quoted_printable

_OVERHEAD = 2048
"""Octets kept free for the header, the boundaries and the heads of the parts."""


def build(
    report: Report,
    letter: Letter,
    options: DsnOptions,
    *,
    now: float,
    queue_id: str,
    token: Callable[[], str],
    movable: Movable = anything,
) -> Mail:
    """The notification under `queue_id`.

    `token` gives random letters and digits, at least 16, for the boundary.  `movable` says
    whether an 8-bit message can be converted to 7 bits.
    """
    human = _human(words.text(report, letter, options))
    status = _status(fields.status(report, options, wide=not letter.to.isascii()))
    room = options.bounce_size_limit - len(human.octets) - len(status.octets) - _OVERHEAD
    full = letter.news is News.FAILURE and letter.full
    full = full and not envelope.headers_only(report.sender_args)
    returned = original(report, full=full, room=max(room, 0), movable=movable)
    parts = (
        _part(b"Notification", human),
        _part(b"Delivery report", status),
        _part(_description(letter.news), returned),
    )
    boundary = _boundary(parts, token)
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts)
    body += b"--%b--\r\n" % boundary
    return _mail(report, letter, body, boundary, options, now, queue_id)


def _human(text: str) -> Part:
    octets = text.encode("utf-8").replace(b"\n", b"\r\n")
    charset = b"us-ascii" if octets.isascii() else b"utf-8"
    kind = b"text/plain; charset=%b" % charset
    if octets.isascii() and max(map(len, octets.split(b"\r\n"))) <= LINE:
        return Part(kind, b"", octets)
    return Part(kind, b"quoted-printable", quoted_printable(octets))


def _status(octets: bytes) -> Part:
    if octets.isascii():
        return Part(b"message/delivery-status", b"", octets)
    return Part(b"message/global-delivery-status", b"8bit", octets)


def _description(news: News) -> bytes:
    return b"Undelivered message" if news in (News.FAILURE, News.DELAY) else b"Original message"


def _part(description: bytes, part: Part) -> bytes:
    encoding = b"Content-Transfer-Encoding: %b\r\n" % part.encoding if part.encoding else b""
    head = b"Content-Description: %b\r\nContent-Type: %b\r\n" % (description, part.kind)
    return b"%b%b\r\n%b" % (head, encoding, part.octets)


def _boundary(parts: Iterable[bytes], token: Callable[[], str]) -> bytes:
    whole = b"".join(parts)
    while True:
        boundary = b"=_" + token().encode("ascii")
        if boundary not in whole:
            return boundary


def _mail(
    report: Report,
    letter: Letter,
    body: bytes,
    boundary: bytes,
    options: DsnOptions,
    now: float,
    queue_id: str,
) -> Mail:
    host = options.myhostname.encode("ascii")
    subjects = words.COPIES if letter.copy else words.SUBJECTS
    header = [
        (b"From", b"Mail Delivery System <MAILER-DAEMON@%b>" % host),
        (b"To", _to(letter.to)),
        (b"Subject", subjects[letter.news]),
        (b"Date", fields.date(now).encode("ascii")),
        (b"Message-ID", b"<%b@%b>" % (queue_id.encode("ascii"), host)),
        *_thread(message_id(report.content)),
        (b"Auto-Submitted", b"auto-replied"),
        (b"MIME-Version", b"1.0"),
        (
            b"Content-Type",
            b'multipart/report; report-type=delivery-status;\r\n\tboundary="%b"' % boundary,
        ),
    ]
    args: tuple[bytes, ...] = ()
    if not body.isascii():
        header.append((b"Content-Transfer-Encoding", b"8bit"))
        args = (b"BODY=8BITMIME",)
    if not letter.to.isascii():
        args = (*args, b"SMTPUTF8")
    return Mail(
        session=Session(direction=Direction.ORIGINATING),
        envelope=Envelope(letter.sender, args, (Recipient(letter.to, (b"NOTIFY=NEVER",)),)),
        headers=tuple(HeaderField(name, b" " + value) for name, value in header),
        body=BytesBody(body),
    )


def _thread(about: bytes) -> list[tuple[bytes, bytes]]:
    """RFC 3834 section 3.1.5: an automatic reply names what it replies to."""
    return [(b"In-Reply-To", about), (b"References", about)] if about else []


def _to(address: bytes) -> bytes:
    """The addressee; an address that no header can hold is not shown."""
    try:
        path, rest = parse_path(b"<%b>" % address, utf8=True)
        if path.address == address and not rest:
            return b"<%b>" % address
    except PathError:
        pass
    return b"undisclosed-recipients:;"
