"""Sendmail's rules: what it takes in, and what it makes of a milter's edits.

From its documentation and from milter.c and headers.c of Sendmail 8.18, not from a running
one.  Its header is a list with places that are not delivered: defaults (Return-Path, and
Date, From and Message-Id of a mail without them) and what was deleted.  They count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.decision import Verdict
from milterd.core.mail import (
    CRLF,
    BytesBody,
    HeaderField,
    Mail,
    Recipient,
)
from milterd.lab.mta_rules.rules import (
    Outcome,
    Rules,
    first_address,
    host_of,
    joined_body,
    whole_lines,
)
from milterd.lab.sendmail import QUEUE_ID, Macros, content_events, session_events
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Actions, Protocol
from milterd.wire.replytext import SmtpReply
from milterd.wire.states import CommandType, ReplyType

TOLD = {
    Verdict.REJECT: "554 5.7.1 Command rejected",
    Verdict.TEMPFAIL: "451 4.3.2 Please try again later",
}
_LATER = SmtpReply(451, "4.3.2", ("Please try again later",))
_DEFAULTS = (b"Date", b"From", b"Message-Id")
_LINE = re.compile(rb"\r?\n")


def take(mail: Mail) -> Mail:
    """The mail with Sendmail's own Received field; its date is no real one."""
    if any(each.hidden for each in mail.headers):
        return mail
    client = mail.session.client
    lines = [
        b" from %b (%b [%b])" % (mail.session.helo, client.name.strip(b"[]"), client.address),
        b"\tby %b (8.18.1/8.18.1) with ESMTP id %b;" % (host_of(mail), QUEUE_ID),
        b"\tThu, 1 Jan 1970 00:00:00 GMT",
    ]
    received = HeaderField(b"Received", CRLF.join(lines), hidden=True)
    return replace(
        mail, headers=(received, *mail.headers), body=whole_lines(mail.body), separator=CRLF
    )


def edit(mail: Mail, asked: Sequence[m.EditReply], agreed: Negotiated) -> Outcome:
    """The mail after the edits, in their order.

    What was not negotiated is done all the same, but for a new body: then the mail is
    refused for now.
    """
    body = joined_body(asked)
    if body is not None and Actions.CHGBODY not in agreed.actions:
        return Outcome(mail, failure=_LATER)
    work = _Work(mail, Protocol.HDR_LEADSPC in agreed.protocol)
    for each in asked:
        work.do(each)
    return work.outcome(body)


@dataclass(slots=True)
class _Place:
    """One place of the header: the field, None where nothing is delivered; whether it is the
    user's (or a milter's); whether it is a trace field, which no milter changes."""

    name: bytes
    field: HeaderField | None
    user: bool = True
    trace: bool = False


class _Header:
    """Header places under edit."""

    def __init__(self, fields: Sequence[HeaderField]) -> None:
        own = [_Place(each.name, each, False, True) for each in fields if each.hidden]
        users = [_Place(each.name, each) for each in fields if not each.hidden]
        there = {each.name.lower() for each in users}
        absent = [_Place(each, None, False) for each in _DEFAULTS if each.lower() not in there]
        self._places = [_Place(b"Return-Path", None, False, True), *own, *absent, *users]

    def fields(self) -> tuple[HeaderField, ...]:
        """What is delivered now."""
        return tuple(each.field for each in self._places if each.field is not None)

    def add(self, field: HeaderField) -> None:
        """Into the place of a default field of that name, or above the first of that name,
        or below all others (milter_addheader, addheader)."""
        named = [each for each in self._places if _same(each.name, field.name)]
        for each in named:
            if not each.user and not each.trace:
                each.field, each.user = field, True
                return
        self._add(field)

    def insert(self, index: int, field: HeaderField) -> None:
        """Behind the place at `index`, of which the first is never delivered (insheader)."""
        self._places.insert(index + 1, _Place(field.name, field))

    def change(self, name: bytes, index: int, field: HeaderField | None) -> None:
        """The `index`-th place of that name, deleted ones counted; else the default field of
        that name; else a new one (milter_changeheader)."""
        default = None
        for each in self._places:
            if not _same(each.name, name):
                continue
            if each.user:
                index -= 1
                if index <= 0:
                    each.field = field
                    return
            elif not each.trace:
                default = each
        if default is not None:
            default.field, default.user = field, default.user or field is not None
        elif field is not None:
            self._add(field)

    def _add(self, field: HeaderField) -> None:
        new = _Place(field.name, field)
        for at, each in enumerate(self._places):
            if _same(each.name, field.name):
                self._places.insert(at, new)
                return
        self._places.append(new)


def _same(name: bytes, other: bytes) -> bool:
    return name.lower() == other.lower()


def made(name: bytes, value: bytes, leading_space: bool) -> HeaderField:
    """The field as it is delivered: each line after the first begins with white space."""
    first, *more = ((b"" if leading_space else b" ") + value).split(b"\n")
    folded = [each if each[:1] in (b" ", b"\t") else b" " + each for each in more]
    return HeaderField(name, CRLF.join([first, *folded]))


class _Work:
    """One mail under edit."""

    def __init__(self, mail: Mail, leading_space: bool) -> None:
        self._mail, self._leading_space = mail, leading_space
        self._header = _Header(mail.headers)
        self._envelope = mail.envelope
        self._edits: list[Edit] = []
        self._notes: list[str] = []
        self._quarantine: bytes | None = None

    def do(self, reply: m.EditReply) -> None:
        """One request."""
        match reply:
            case m.AddHeaderReply() | m.InsertHeaderReply() | m.ChangeHeaderReply():
                if reply.name:
                    self._field(reply)
                else:
                    self._notes.append("header field without a name ignored")
            case m.QuarantineReply():
                self._quarantine = reply.reason
                self._edits.append(Quarantine(reply.reason))
            case m.ReplaceBodyChunk():
                if not any(isinstance(each, ReplaceBody) for each in self._edits):
                    self._edits.append(ReplaceBody(BytesBody()))
            case m.AddRcptReply():
                self._add_recipient(Recipient(first_address(reply.address)))
            case m.AddRcptParReply():
                args = tuple(reply.args.split())
                self._add_recipient(Recipient(first_address(reply.address), args))
            case m.DelRcptReply():
                self._delete_recipient(first_address(reply.address))
            case m.ChangeFromReply():
                self._change_sender(first_address(reply.address), tuple(reply.args.split()))

    def outcome(self, body: bytes | None) -> Outcome:
        """What it came to."""
        mail = replace(self._mail, headers=self._header.fields(), envelope=self._envelope)
        edits = tuple(self._edits)
        if body is not None:
            new = ReplaceBody(whole_lines(BytesBody(_LINE.sub(b"\r\n", body))))
            mail = replace(mail, body=new.body)
            edits = tuple(new if isinstance(each, ReplaceBody) else each for each in edits)
        return Outcome(mail, edits, self._quarantine, tuple(dict.fromkeys(self._notes)))

    def _field(self, reply: m.AddHeaderReply | m.InsertHeaderReply | m.ChangeHeaderReply) -> None:
        field = made(reply.name, reply.value, self._leading_space)
        match reply:
            case m.AddHeaderReply():
                self._header.add(field)
                self._edits.append(AddHeader(field.name, field.value))
            case m.InsertHeaderReply():
                self._header.insert(reply.index, field)
                self._edits.append(InsertHeader(reply.index, field.name, field.value))
                if reply.index > 1:
                    self._notes.append(
                        "insertion below the second place: Sendmail counts fields that it "
                        "does not deliver, so the exact place is not certain"
                    )
            case m.ChangeHeaderReply():
                self._header.change(reply.name, reply.index, field if reply.value else None)
                value = field.value if reply.value else b""
                self._edits.append(ChangeHeader(field.name, reply.index, value))

    def _add_recipient(self, recipient: Recipient) -> None:
        self._edits.append(AddRecipient(recipient.address, recipient.args))
        there = self._envelope.recipients
        if not recipient.address:
            self._notes.append("null recipient ignored")
        elif any(_same_mailbox(each.address, recipient.address) for each in there):
            self._notes.append("recipient that was there already ignored")
        else:
            self._envelope = replace(self._envelope, recipients=(*there, recipient))

    def _delete_recipient(self, address: bytes) -> None:
        self._edits.append(DeleteRecipient(address))
        there = self._envelope.recipients
        left = tuple(each for each in there if not _same_mailbox(each.address, address))
        self._envelope = replace(self._envelope, recipients=left)

    def _change_sender(self, address: bytes, args: tuple[bytes, ...]) -> None:
        """Parameters take the place of all there were (reset_mail_esmtp_args)."""
        self._edits.append(ChangeSender(address, args))
        kept = args or self._envelope.sender_args
        self._envelope = replace(self._envelope, sender=address, sender_args=kept)


def _same_mailbox(address: bytes, other: bytes) -> bool:
    """The domain's case does not matter, that of the local part does."""
    local, _, domain = address.rpartition(b"@")
    others_local, _, others_domain = other.rpartition(b"@")
    return local == others_local and domain.lower() == others_domain.lower()


def bogus(event: CommandType, reply: ReplyType) -> bool:
    """Progress and quarantine count at the end of the message only, hanging up only before."""
    if event is m.EndOfMessage:
        return reply in (m.Shutdown, m.ConnFail)
    return reply in (m.Progress, m.QuarantineReply)


RULES = Rules(
    name="sendmail",
    take=take,
    edit=edit,
    macros=Macros,
    session_events=session_events,
    content_events=content_events,
    lenient=False,
    bogus=bogus,
    connect_text=False,
    aborts=False,
    told=TOLD,
)
