"""Delivery status notifications (RFC 3461 to 3464).  Pure: values in, a mail out.

Nothing is sent for the null sender, so a DSN never causes a DSN, nor for a recipient
whose NOTIFY does not want it.  A peer's words stand in it as printable text only, and
the whole keeps to `bounce_size_limit`, as far as the list of recipients allows.
"""

from __future__ import annotations

import binascii
import email.utils
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from milterd.core.mail import (
    BytesBody,
    Direction,
    Envelope,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from smtpgw.delivery.outcome import clean
from smtpgw.queue.store import Content

FAILED, DELAYED, DELIVERED, RELAYED = "failed", "delayed", "delivered", "relayed"
_NOTIFY = {FAILED: b"FAILURE", DELAYED: b"DELAY", DELIVERED: b"SUCCESS", RELAYED: b"SUCCESS"}
_DEFAULT_NOTIFY = frozenset({b"FAILURE", b"DELAY"})
_HOST = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]*[0-9A-Za-z])?\Z")
_XTEXT = re.compile(rb"\+([0-9A-F]{2})")
_OVERHEAD = 2048
_HUMAN_SHARE = 100


@dataclass(frozen=True, slots=True)
class DsnOptions:
    """`bounce_size_limit`: octets of a notification, the original's part shrinks to fit."""

    myhostname: str = "localhost"
    bounce_size_limit: int = 50_000


@dataclass(frozen=True, slots=True)
class Reported:
    """One recipient and what became of it; `text` are the peer's words if `spoken`."""

    address: bytes
    args: tuple[bytes, ...]
    action: str
    enhanced: str
    text: str
    remote: str = ""
    spoken: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All recipients of one mail that met the same kind of end.  Times are wall seconds;
    `retry_until` goes with delays."""

    queue_id: str
    sender: bytes
    sender_args: tuple[bytes, ...]
    content: Content
    arrived: float
    recipients: tuple[Reported, ...]
    retry_until: float | None = None


def wanted(sender: bytes, args: Iterable[bytes], action: str) -> bool:
    """Whether this sender wants to hear that of this recipient (RFC 3461 sections 4.1, 5.2)."""
    if not sender:
        return False
    notify = _parameter(args, b"NOTIFY")
    chosen = _DEFAULT_NOTIFY if notify is None else frozenset(notify.upper().split(b","))
    return _NOTIFY[action] in chosen


def build(
    report: Report,
    options: DsnOptions,
    *,
    now: float,
    queue_id: str,
    token: Callable[[], str],
) -> Mail | None:
    """The notification to the sender under `queue_id`, or None if nobody wants one.

    `token` gives random letters and digits, at least 16, for the boundary.
    """
    chosen = tuple(
        each
        for each in report.recipients
        if wanted(report.sender, each.args, each.action) and each.action in _SUBJECTS
    )
    if not chosen:
        return None
    human = _human(report, chosen, options)
    status = _status(report, chosen, options, now)
    room = options.bounce_size_limit - len(human) - len(status) - _OVERHEAD
    kind, original = _original(report, chosen[0].action, max(room, 0))
    parts = (human, status, _part(kind, original))
    boundary = _boundary(parts, token)
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts)
    body += b"--%b--\r\n" % boundary
    return _mail(report, chosen[0].action, body, boundary, options, now, queue_id)


_SUBJECTS = {
    FAILED: b"Undelivered Mail Returned to Sender",
    DELAYED: b"Delayed Mail (still being retried)",
    DELIVERED: b"Successful Mail Delivery Report",
    RELAYED: b"Successful Mail Delivery Report",
}

_OPENINGS = {
    FAILED: "Your message could not be delivered to the recipients below, and no further"
    " attempt will be made. What is known of the cause stands beside each; the message, or"
    " its header, is attached.",
    DELAYED: "Your message has not been delivered to the recipients below yet. You need not"
    " do anything: delivery will be tried until {until}.",
    DELIVERED: "Your message was delivered to the recipients below.",
    RELAYED: "Your message was handed over, for the recipients below, to a mail system that"
    " will not report about its delivery.",
}


def _mail(
    report: Report,
    action: str,
    body: bytes,
    boundary: bytes,
    options: DsnOptions,
    now: float,
    queue_id: str,
) -> Mail:
    host = options.myhostname.encode("ascii")
    fields = [
        (b"From", b"Mail Delivery System <MAILER-DAEMON@%b>" % host),
        (b"To", b"<%b>" % _header_address(report.sender)),
        (b"Subject", _SUBJECTS[action]),
        (b"Date", _date(now)),
        (b"Message-ID", b"<%b@%b>" % (queue_id.encode("ascii"), host)),
        (b"Auto-Submitted", b"auto-replied"),
        (b"MIME-Version", b"1.0"),
        (
            b"Content-Type",
            b'multipart/report; report-type=delivery-status;\r\n\tboundary="%b"' % boundary,
        ),
    ]
    args: tuple[bytes, ...] = ()
    if not body.isascii():
        fields.append((b"Content-Transfer-Encoding", b"8bit"))
        args = (b"BODY=8BITMIME",)
    if not report.sender.isascii():
        args = (*args, b"SMTPUTF8")
    return Mail(
        session=Session(direction=Direction.ORIGINATING),
        envelope=Envelope(b"", args, (Recipient(report.sender),)),
        headers=tuple(HeaderField(name, b" " + value) for name, value in fields),
        body=BytesBody(body),
    )


def _human(report: Report, chosen: tuple[Reported, ...], options: DsnOptions) -> bytes:
    until = "" if report.retry_until is None else _date(report.retry_until).decode()
    opening = _OPENINGS[chosen[0].action].format(until=until)
    paragraphs = [f"This is the mail system at {options.myhostname}.", opening]
    for each in chosen[:_HUMAN_SHARE]:
        said = f"{each.remote or 'the receiving system'} said: " if each.spoken else ""
        paragraphs.append(f"<{clean(each.address, 320)}>: {said}{clean(each.text)}")
    if len(chosen) > _HUMAN_SHARE:
        paragraphs.append(f"... and {len(chosen) - _HUMAN_SHARE} more, listed in the next part.")
    paragraphs.append(f"For help, write to <postmaster@{options.myhostname}> with the id"
                      f" {report.queue_id}.")  # fmt: skip
    text = "\n\n".join(textwrap.fill(each, 76) for each in paragraphs) + "\n"
    charset, encoding, octets = b"us-ascii", b"7bit", text.encode()
    if not text.isascii():
        charset, encoding, octets = b"utf-8", b"quoted-printable", binascii.b2a_qp(octets)
    return (
        b"Content-Description: Notification\r\n"
        b"Content-Type: text/plain; charset=%b\r\nContent-Transfer-Encoding: %b\r\n\r\n%b"
        % (charset, encoding, octets.replace(b"\n", b"\r\n"))
    )


def _status(report: Report, chosen: tuple[Reported, ...], options: DsnOptions, now: float) -> bytes:
    """message/delivery-status (RFC 3464 section 2)."""
    fields = [f"Reporting-MTA: dns; {options.myhostname}"]
    envelope_id = _parameter(report.sender_args, b"ENVID")
    if envelope_id is not None:
        fields.append(f"Original-Envelope-Id: {_ascii(_unxtext(envelope_id), 200)}")
    fields.append(f"X-Gatepost-Queue-ID: {report.queue_id}")
    fields.append(f"Arrival-Date: {_date(report.arrived).decode()}")
    blocks = [fields]
    blocks += [_recipient_fields(each, report, now) for each in chosen]
    text = b"\r\n".join(b"".join(_fold(each) + b"\r\n" for each in block) for block in blocks)
    return (
        b"Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n"
        + text
    )


def _recipient_fields(each: Reported, report: Report, now: float) -> list[str]:
    fields = []
    original = _parameter(each.args, b"ORCPT")
    if original is not None:
        kind, _, address = original.partition(b";")
        fields.append(f"Original-Recipient: {_ascii(kind, 40)};{_ascii(_unxtext(address), 500)}")
    fields.append(f"Final-Recipient: {_typed_address(each.address)}")
    fields.append(f"Action: {each.action}")
    fields.append(f"Status: {each.enhanced}")
    if _HOST.match(each.remote):
        fields.append(f"Remote-MTA: dns; {each.remote}")
    if each.action in (FAILED, DELAYED):
        kind_of_words = "smtp" if each.spoken else "x-gatepost"
        fields.append(f"Diagnostic-Code: {kind_of_words}; {_ascii(each.text, 900)}")
        fields.append(f"Last-Attempt-Date: {_date(now).decode()}")
    if each.action == DELAYED and report.retry_until is not None:
        fields.append(f"Will-Retry-Until: {_date(report.retry_until).decode()}")
    return fields


def _original(report: Report, action: str, room: int) -> tuple[bytes, bytes]:
    """The message if it is wanted and fits, else its header as far as it fits."""
    full = (_parameter(report.sender_args, b"RET") or b"FULL").upper() == b"FULL"
    content = report.content
    if action == FAILED and full and content.size <= room:
        return b"message/rfc822", b"".join(content.pieces())
    head = content.head.removesuffix(b"\r\n\r\n").removesuffix(b"\r\n") + b"\r\n"
    if len(head) > room:
        head = head[: head.rfind(b"\r\n", 0, room) + 2] if b"\r\n" in head[:room] else b""
    return b"text/rfc822-headers", head


def _part(kind: bytes, octets: bytes) -> bytes:
    encoding = b"" if octets.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return b"Content-Description: Undelivered message\r\nContent-Type: %b\r\n%b\r\n%b" % (
        kind,
        encoding,
        octets,
    )


def _boundary(parts: Iterable[bytes], token: Callable[[], str]) -> bytes:
    whole = b"".join(parts)
    while True:
        boundary = b"=_" + token().encode("ascii")
        if boundary not in whole:
            return boundary


def _fold(field: str) -> bytes:
    lines = textwrap.wrap(
        field, 76, subsequent_indent=" ", break_on_hyphens=False, break_long_words=False
    )
    return "\r\n".join(lines).encode("ascii")


def _ascii(text: bytes | str, limit: int) -> str:
    return clean(text, limit).encode("ascii", "backslashreplace")[:limit].decode("ascii")


def _typed_address(address: bytes) -> str:
    """An address with its type; one with other than ASCII as RFC 6533 section 3 writes it."""
    if address.isascii():
        return f"rfc822; {_ascii(address, 500)}"
    text = clean(address, 320)
    kept = (each if each.isascii() else f"\\x{{{ord(each):X}}}" for each in text)
    return f"utf-8; {''.join(kept)}"


def _header_address(address: bytes) -> bytes:
    return clean(address, 320).encode()


def _unxtext(octets: bytes) -> bytes:
    return _XTEXT.sub(lambda match: bytes([int(match[1], 16)]), octets)


def _parameter(args: Iterable[bytes], name: bytes) -> bytes | None:
    for each in args:
        key, _, value = each.partition(b"=")
        if key.upper() == name:
            return value
    return None


def _date(when: float) -> bytes:
    return email.utils.formatdate(when).encode("ascii")
