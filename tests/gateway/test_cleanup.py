"""What is added to a mail before anybody judges it, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from milterd.core.mail import (
    CRLF,
    BytesBody,
    Client,
    Direction,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from smtpgw.cleanup import Arrival, CleanupOptions, prepare
from smtpgw.edge.content import Content
from smtpgw.edge.road import Hello, Login

NOW = 1_800_000_000.0
CLIENT = Client(b"laptop.example.org", Family.INET, b"192.0.2.7", 4000)
SUBJECT = HeaderField(b"Subject", b" one")


def _prepare(direction: Direction, *fields: HeaderField, **options: Any) -> Mail:
    arrival = Arrival(
        Session(CLIENT, b"laptop", direction),
        Hello(b"laptop", True, login=Login(b"u")),
        Envelope(b"a@example.net", (), (Recipient(b"postmaster"), Recipient(b"b@example.org"))),
        Content(fields, CRLF, BytesBody(b"text\r\n"), 100),
        "8DmSxv9DQ00DCS",
        NOW,
    )
    return prepare(arrival, CleanupOptions("mx.example.net", **options))


def test_mail_of_our_users_gets_the_date_and_message_id_it_lacks() -> None:
    mail = _prepare(Direction.ORIGINATING, SUBJECT)
    shown = [(each.name, each.value) for each in mail.visible()]
    assert shown == [
        (b"Subject", b" one"),
        (b"Message-ID", b" <20270115080000.8DmSxv9DQ00DCS@mx.example.net>"),
        (b"Date", b" Fri, 15 Jan 2027 08:00:00 +0000"),
    ]


def test_what_is_there_already_stays_alone() -> None:
    fields = (HeaderField(b"DATE", b" then"), HeaderField(b"Message-Id", b""))
    assert tuple(_prepare(Direction.ORIGINATING, *fields).visible()) == fields


@pytest.mark.parametrize("always", [False, True])
def test_mail_of_strangers_is_completed_only_if_the_postmaster_says_so(always: bool) -> None:
    mail = _prepare(Direction.INBOUND, SUBJECT, always_add_missing_headers=always)
    assert len(list(mail.visible())) == (3 if always else 1)


def test_the_trace_is_ours_hidden_and_on_top() -> None:
    trace = _prepare(Direction.INBOUND, SUBJECT).headers[0]
    assert trace.hidden
    assert trace.named(b"Received")
    assert b"from laptop (laptop.example.org [192.0.2.7])" in trace.value


@pytest.mark.parametrize(
    ("direction", "hide", "shown"),
    [
        (Direction.ORIGINATING, True, False),
        (Direction.ORIGINATING, False, True),
        (Direction.INBOUND, True, True),  # the trace of strangers is evidence
    ],
)
def test_where_our_users_are_is_nobodys_business(
    direction: Direction, hide: bool, shown: bool
) -> None:
    trace = _prepare(direction, SUBJECT, hide_client=hide).headers[0].value
    assert (b"192.0.2.7" in trace or b"laptop" in trace) is shown
    assert b"by mx.example.net (Gatepost) with ESMTPA id 8DmSxv9DQ00DCS" in trace
    assert shown or b"from localhost (localhost [127.0.0.1])" in trace


def test_recipients_stay_as_the_client_named_them() -> None:
    """Milters and the trace are to see that; myorigin is the intake's business."""
    mail = _prepare(Direction.INBOUND, SUBJECT)
    assert [each.address for each in mail.envelope.recipients] == [b"postmaster", b"b@example.org"]
