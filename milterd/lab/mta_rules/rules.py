"""What a set of rules has: how one MTA takes a mail in, talks to a milter, and heeds its edits.

Rules take replies as they came over the wire, not core edits: what an MTA makes of a bare
CR, of a line that is no continuation or of a packet too many is just what differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from milterd.core.actions import Edit
from milterd.core.decision import Verdict
from milterd.core.mail import CRLF, Body, BytesBody, Mail, body_octets
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Stage
from milterd.wire.replytext import SmtpReply
from milterd.wire.states import CommandType, ReplyType

Wanted = Mapping[Stage, tuple[str, ...]]
_ANGLED = re.compile(rb"<([^<>]*)>")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the edits came to.

    `mail` is as the MTA has it then.  `edits` are the replies as the MTA understood them.
    `quarantine` is the reason as it is kept, None for no quarantine.  `notes` say what was
    done otherwise than asked.  `failure` is what the client is told instead of success,
    where the MTA cannot do what was asked; then no edit counts.
    """

    mail: Mail
    edits: tuple[Edit, ...] = ()
    quarantine: bytes | None = None
    notes: tuple[str, ...] = ()
    failure: SmtpReply | None = None


class Telling(Protocol):
    """The macros of one mail."""

    def before(self, event: m.CommandMessage) -> Sequence[tuple[bytes, bytes]] | None:
        """What to tell before `event`; None for no packet at all."""
        ...

    def refused(self) -> None:
        """The recipient told last was refused."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """One MTA's ways.

    `take` makes of a mail what the MTA shows and edits: its own Received field on top,
    hidden.  `edit` carries out what a milter asked for.  `lenient`: it goes on where the
    milter sets protocol flags that were not offered.  `bogus`: whether it drops a milter
    that gives this reply to this event, though the protocol's tables let it pass.
    `connect_text`: a milter's own text at CONNECT reaches the client.  `aborts`: it sends
    ABORT after every mail, and again at the end; others do only for a mail left in the
    middle.  `told` are its replies where the milter gives no text.
    """

    name: str
    take: Callable[[Mail], Mail]
    edit: Callable[[Mail, Sequence[m.EditReply], Negotiated], Outcome]
    macros: Callable[[Mail, Wanted], Telling]
    session_events: Callable[[Mail], Iterator[m.CommandMessage]]
    content_events: Callable[[Mail, bool], Iterator[m.CommandMessage]]
    lenient: bool
    bogus: Callable[[CommandType, ReplyType], bool]
    connect_text: bool
    aborts: bool
    told: Mapping[Verdict, str]


def whole_lines(body: Body) -> Body:
    """The body with a line end at its end: the MTA stores lines."""
    last = b"\n"
    for piece in body.pieces():
        last = piece[-1:]
    return body if last == b"\n" else BytesBody(body_octets(body) + CRLF)


def joined_body(replies: Sequence[m.EditReply]) -> bytes | None:
    """The new body in one piece; None if there is none."""
    pieces = [each.octets for each in replies if isinstance(each, m.ReplaceBodyChunk)]
    return b"".join(pieces) if pieces else None


def first_address(text: bytes) -> bytes:
    """The address in what a milter sent: within the first angle brackets, or all of it."""
    match = _ANGLED.search(text)
    return match[1] if match else text.strip()


def host_of(mail: Mail) -> bytes:
    """The MTA's own name, its macro {j}."""
    return mail.session.macros.get("j", b"localhost")
