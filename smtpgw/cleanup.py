"""From what the edge received to the mail that milters see and the queue keeps (cleanup(8)).

Our trace goes on top, and mail of our own users gets the Date and Message-ID it lacks: before
it is signed, not after.  Nothing else changes here: addresses are the intake's business
(:mod:`smtpgw.readdress`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from milterd.core.mail import Client, Direction, Envelope, Family, HeaderField, Mail, Session
from smtpgw.edge.content import Content
from smtpgw.edge.received import date_of, received_field
from smtpgw.edge.road import Hello

MAIL_NAME = b"Gatepost"
"""What we call ourselves in the Received field, and to milters as {v}."""

_NEEDED = frozenset({b"date", b"message-id"})
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


@dataclass(slots=True)  # there is one for each mail, and to freeze it costs as much as a call each
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
        present = {each.name.lower() for each in content.headers}
        if not present.issuperset(_NEEDED):
            added = tuple(_missing(arrival, present, options.myhostname))
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
    date = date_of(int(arrival.when))
    by = b" by %b (%b, from userid %d)" % (options.myhostname.encode(), MAIL_NAME, uid)
    trace = b"\r\n\t".join((by, b"id %b;" % arrival.queue_id.encode(), date))
    present = {each.name.lower() for each in content.headers}
    added = tuple(_missing(replace(arrival, when=arrived), present, options.myhostname))
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


def _missing(arrival: Arrival, present: Collection[bytes], hostname: str) -> Iterator[HeaderField]:
    """The Date and Message-ID that a submission server adds (RFC 6409 section 8), where they are
    not among the names of fields that are `present`."""
    second = int(arrival.when)
    if b"message-id" not in present:
        unique = f" <{_digits(second)}.{arrival.queue_id}@{hostname}>"
        yield HeaderField(b"Message-ID", unique.encode())
    if b"date" not in present:
        yield HeaderField(b"Date", b" " + date_of(second))


@functools.lru_cache(maxsize=8)
def _digits(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y%m%d%H%M%S}"
