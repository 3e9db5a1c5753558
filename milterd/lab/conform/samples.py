"""The mails a card is made with, where the user gives none."""

from __future__ import annotations

from dataclasses import replace

from milterd.core.mail import (
    BytesBody,
    Client,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)

_FIELDS = (
    (b"Date", b"Mon, 05 Oct 2026 09:00:00 +0000"),
    (b"Message-ID", b"<20261005090000.lab@example.org>"),
    (b"MIME-Version", b"1.0"),
    (b"Content-Type", b"text/plain; charset=us-ascii"),
    (b"Subject", b"Agenda of the meeting on Thursday"),
)
_TEXT = (
    b"Hello,\r\n\r\nhere is the agenda: minutes of the last meeting, the budget,\r\n"
    b"and the date of the next one.\r\n\r\nRegards\r\nSender\r\n"
)
# In two halves each, or this very file would be found.
_VIRUS = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_SPAM = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE" + b"-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


def default_session() -> Session:
    """A client on the loopback interface."""
    client = Client(b"localhost", Family.INET, b"127.0.0.1", 25000)
    return Session(client, b"localhost")


def default_envelope() -> Envelope:
    """One recipient."""
    return Envelope(b"sender@example.org", recipients=(Recipient(b"recipient@example.net"),))


def plain(envelope: Envelope | None = None) -> Mail:
    """A short mail that nothing is wrong with; its From and To are those of the envelope."""
    envelope = envelope or default_envelope()
    to = b", ".join(each.address for each in envelope.recipients)
    fields = ((b"From", envelope.sender or b"postmaster@example.org"), (b"To", to), *_FIELDS)
    headers = tuple(HeaderField(name, b" " + value) for name, value in fields)
    return Mail(default_session(), envelope, headers, BytesBody(_TEXT))


def virus(mail: Mail) -> Mail:
    """`mail` with the EICAR test file in it."""
    return replace(mail, body=BytesBody(_VIRUS + b"\r\n"))


def spam(mail: Mail) -> Mail:
    """`mail` with GTUBE in it."""
    return replace(mail, body=BytesBody(_SPAM + b"\r\n"))


def default_mails(envelope: Envelope | None = None) -> tuple[Mail, ...]:
    """A good mail, a virus, and spam."""
    good = plain(envelope)
    return good, virus(good), spam(good)


CANARY = b"canary-kx7qz"
"""A word that no other mail has: where it comes up later, something was kept."""


def canary(mail: Mail) -> Mail:
    """`mail` as somebody else's, with CANARY in every place."""
    envelope = replace(
        mail.envelope,
        sender=CANARY + b"@example.org",
        recipients=(Recipient(CANARY + b"@example.net"), *mail.envelope.recipients),
    )
    subject = HeaderField(b"Subject", b" " + CANARY)
    body = BytesBody(CANARY + b"\r\n")
    return replace(mail, envelope=envelope, headers=(subject, *mail.headers), body=body)
