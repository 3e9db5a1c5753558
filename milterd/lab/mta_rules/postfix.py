"""Postfix's rules: what it takes in, and what it makes of a milter's edits.

Sources: smtpd.c, cleanup_message.c, milter8.c of Postfix 3.7, held against a running one by
tests/lab/test_postfix_queue.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

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
from milterd.core.mail import CRLF, Body, BytesBody, HeaderField, Mail, body_octets
from milterd.lab.mta_rules.postfix_envelope import Recipients, changed_sender
from milterd.lab.mta_rules.postfix_header import Header, made, taken
from milterd.lab.mta_rules.rules import (
    Outcome,
    Rules,
    first_address,
    host_of,
    joined_body,
    whole_lines,
)
from milterd.lab.postfix import QUEUE_ID, Macros, content_events, session_events
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Protocol
from milterd.wire.replytext import SmtpReply

TOLD = {
    Verdict.REJECT: "550 5.7.1 Command rejected",
    Verdict.TEMPFAIL: "451 4.7.1 Service unavailable - try again later",
}
REASON = 100
"""Octets of a quarantine's reason that are kept."""
_DROPPED = frozenset({b"bcc", b"content-length", b"resent-bcc", b"return-path"})
"""message_drop_headers."""
_CONFIGURATION = SmtpReply(451, "4.3.5", ("Server configuration problem - try again later",))
_STRAY = re.compile(rb"\r(?!\n)")
_LINE = re.compile(rb"\r?\n")


def take(mail: Mail) -> Mail:
    """The mail as cleanup(8) has it before any milter edits it.

    Its date is no real one, so that the same mail gives the same result.
    """
    if any(each.hidden for each in mail.headers):
        return mail
    kept = (taken(each) for each in mail.headers if each.name.lower() not in _DROPPED)
    body = whole_lines(_without_stray_returns(mail.body))
    return replace(
        mail,
        headers=(_received(mail), *kept),
        body=body,
        separator=CRLF if body.size else mail.separator,
    )


def _without_stray_returns(body: Body) -> Body:
    """A CR that ends no line is a space then (cleanup_replace_stray_cr_lf)."""
    octets = body_octets(body)
    cleaned = _STRAY.sub(b" ", octets)
    return body if cleaned == octets else BytesBody(cleaned)


def _received(mail: Mail) -> HeaderField:
    client, recipients = mail.session.client, mail.envelope.recipients
    name = b"unknown" if client.name.startswith(b"[") else client.name
    lines = [
        b" from %b (%b [%b])" % (mail.session.helo, name, client.address or b"unknown"),
        b"\tby %b (Postfix) with ESMTP id %b" % (host_of(mail), QUEUE_ID),
    ]
    date = b"Thu,  1 Jan 1970 00:00:00 +0000 (UTC)"
    if len(recipients) == 1:
        lines.append(b"\tfor <%b>; %b" % (recipients[0].address, date))
    else:
        lines[-1] += b";"
        lines.append(b"\t" + date)
    return HeaderField(b"Received", CRLF.join(lines), hidden=True)


def edit(mail: Mail, asked: Sequence[m.EditReply], agreed: Negotiated) -> Outcome:
    """The mail after the edits, in their order.

    Postfix does not look whether an edit was negotiated.
    """
    work = _Work(mail, Protocol.HDR_LEADSPC in agreed.protocol)
    if (failure := _refusal(asked)) is not None:
        return Outcome(mail, failure=failure)
    for each in asked:
        work.do(each)
    return work.outcome(joined_body(asked))


def _refusal(asked: Sequence[m.EditReply]) -> SmtpReply | None:
    """What the client is told where Postfix takes a request for a broken milter."""
    body, ended = False, False
    for each in asked:
        if isinstance(each, m.ReplaceBodyChunk):
            if ended:
                return _CONFIGURATION
            body = True
            continue
        ended = body
        if isinstance(each, m.ChangeHeaderReply) and not each.name:
            return _CONFIGURATION
    return None


class _Work:
    """One mail under edit."""

    def __init__(self, mail: Mail, leading_space: bool) -> None:
        self._mail, self._leading_space = mail, leading_space
        self._origin = host_of(mail)
        self._header = Header(mail.headers)
        self._recipients = Recipients(mail.envelope.recipients, self._origin)
        self._envelope = mail.envelope
        self._edits: list[Edit] = []
        self._notes: list[str] = []
        self._quarantine: bytes | None = None

    def do(self, reply: m.EditReply) -> None:
        """One request."""
        match reply:
            case m.AddHeaderReply() | m.InsertHeaderReply() | m.ChangeHeaderReply():
                self._field(reply)
            case m.QuarantineReply():
                self._quarantine = reply.reason[:REASON]
                self._edits.append(Quarantine(reply.reason))
            case m.ReplaceBodyChunk():
                if not any(isinstance(each, ReplaceBody) for each in self._edits):
                    self._edits.append(ReplaceBody(BytesBody()))
            case _:
                self._person(reply)

    def outcome(self, body: bytes | None) -> Outcome:
        """What it came to."""
        mail = replace(
            self._mail,
            headers=self._header.fields(),
            envelope=replace(self._envelope, recipients=self._recipients.all()),
        )
        edits = tuple(self._edits)
        if body is not None:
            new = ReplaceBody(BytesBody(new_body(body)))
            mail = replace(mail, body=new.body, separator=CRLF)
            edits = tuple(new if isinstance(each, ReplaceBody) else each for each in edits)
        return Outcome(mail, edits, self._quarantine, tuple(dict.fromkeys(self._notes)))

    def _field(self, reply: m.AddHeaderReply | m.InsertHeaderReply | m.ChangeHeaderReply) -> None:
        field = made(reply.name, reply.value, self._leading_space)
        match reply:
            case m.AddHeaderReply():
                self._header.append(field)
                self._edits.append(AddHeader(field.name, field.value))
            case m.InsertHeaderReply():
                self._header.insert(reply.index, field)
                self._edits.append(InsertHeader(reply.index, field.name, field.value))
            case m.ChangeHeaderReply():
                self._header.change(reply.name, reply.index, field if reply.value else None)
                value = field.value if reply.value else b""
                self._edits.append(ChangeHeader(field.name, reply.index, value))

    def _person(self, reply: m.EditReply) -> None:
        match reply:
            case m.AddRcptReply():
                self._notes += self._recipients.add(reply.address, b"")
                self._edits.append(AddRecipient(first_address(reply.address)))
            case m.AddRcptParReply():
                self._notes += self._recipients.add(reply.address, reply.args)
                args = tuple(reply.args.split())
                self._edits.append(AddRecipient(first_address(reply.address), args))
            case m.DelRcptReply():
                self._recipients.delete(reply.address)
                self._edits.append(DeleteRecipient(first_address(reply.address)))
            case m.ChangeFromReply():
                self._envelope, notes = changed_sender(
                    self._envelope, reply.address, reply.args, self._origin
                )
                self._notes += notes
                args = tuple(reply.args.split())
                self._edits.append(ChangeSender(first_address(reply.address), args))
            case _:
                raise AssertionError(f"{type(reply).__name__} is done elsewhere")


def new_body(octets: bytes) -> bytes:
    """A replaced body: LF and CRLF end a line, another CR stays, and the last line is ended."""
    ended = _LINE.sub(b"\r\n", octets)
    return ended if not ended or octets.endswith(b"\n") else ended + CRLF


RULES = Rules(
    name="postfix",
    take=take,
    edit=edit,
    macros=Macros,
    session_events=session_events,
    content_events=content_events,
    lenient=True,
    bogus=lambda _event, _reply: False,
    connect_text=True,
    aborts=True,
    told=TOLD,
)
