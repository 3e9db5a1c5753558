"""From what the edge received to the mail that milters see and the queue keeps (cleanup(8)).

Our trace goes on top, and mail of our own users gets the Date and Message-ID it lacks: before
it is signed, not after.  Nothing else changes here: addresses are the intake's business
(:mod:`smtpgw.readdress`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime

from milterd.core.mail import Client, Direction, Envelope, Family, HeaderField, Mail, Session
from smtpgw.edge.content import Content
from smtpgw.edge.received import received_field
from smtpgw.edge.road import Hello

MAIL_NAME = b"Gatepost"
"""What we call ourselves in the Received field, and to milters as {v}."""

_NOBODY = Client(b"localhost", Family.INET, b"127.0.0.1")


@dataclass(frozen=True, slots=True)
class CleanupOptions:
    """`myhostname` is our name.  With `hide_client` the trace of originating mail names
    this machine in place of the client.  `always_add_missing_headers` completes mail of
    strangers too (postconf(5)), `authenticated_header` names in our trace who has logged in,
    `tls_header` tells there of encryption."""

    myhostname: str
    hide_client: bool = False
    always_add_missing_headers: bool = False
    tls_header: bool = True
    authenticated_header: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came; `when` is seconds since 1970."""

    session: Session
    hello: Hello
    envelope: Envelope
    content: Content
    queue_id: str
    when: float


def prepare(arrival: Arrival, options: CleanupOptions) -> Mail:
    """The mail to show to the milters and to queue."""
    content, originating = arrival.content, arrival.session.direction is Direction.ORIGINATING
    added: tuple[HeaderField, ...] = ()
    if originating or options.always_add_missing_headers:
        added = tuple(_missing(arrival, options.myhostname))
    return Mail(
        session=arrival.session,
        envelope=arrival.envelope,
        headers=(_trace(arrival, options), *content.headers, *added),
        body=content.body,
        separator=content.separator,
    )


def prepare_local(arrival: Arrival, options: CleanupOptions, *, uid: int, arrived: float) -> Mail:
    """The same for mail that user `uid` handed in on this machine at `arrived`."""
    content = arrival.content
    date = format_datetime(datetime.fromtimestamp(int(arrival.when), UTC)).encode("ascii")
    by = b" by %b (%b, from userid %d)" % (options.myhostname.encode(), MAIL_NAME, uid)
    trace = b"\r\n\t".join((by, b"id %b;" % arrival.queue_id.encode(), date))
    added = tuple(_missing(replace(arrival, when=arrived), options.myhostname))
    return Mail(
        session=arrival.session,
        envelope=arrival.envelope,
        headers=(HeaderField(b"Received", trace, hidden=True), *content.headers, *added),
        body=content.body,
        separator=content.separator,
    )


def _trace(arrival: Arrival, options: CleanupOptions) -> HeaderField:
    client, hello = arrival.session.client, arrival.hello
    if options.hide_client and arrival.session.direction is Direction.ORIGINATING:
        tls = replace(hello.tls, certificate=None) if hello.tls is not None else None
        client, hello = _NOBODY, replace(hello, name=b"localhost", tls=tls)
    return received_field(
        client,
        hello,
        arrival.envelope,
        by=options.myhostname.encode(),
        mail_name=MAIL_NAME,
        queue_id=arrival.queue_id.encode(),
        when=arrival.when,
        name_login=options.authenticated_header,
        tell_tls=options.tls_header,
    )


def _missing(arrival: Arrival, hostname: str) -> Iterator[HeaderField]:
    """The Date and Message-ID that a submission server adds (RFC 6409 section 8)."""
    present = {each.name.lower() for each in arrival.content.headers}
    moment = datetime.fromtimestamp(int(arrival.when), UTC)
    if b"message-id" not in present:
        unique = f" <{moment:%Y%m%d%H%M%S}.{arrival.queue_id}@{hostname}>"
        yield HeaderField(b"Message-ID", unique.encode())
    if b"date" not in present:
        yield HeaderField(b"Date", b" " + format_datetime(moment).encode())
