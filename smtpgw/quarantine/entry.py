"""What is kept with a mail that goes into the quarantine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from milterd.core.finding import Found
from milterd.core.mail import Envelope, HeaderField, Mail, Recipient, split_header
from smtpgw.policy.record import NO_ACTIONS, Actions
from smtpgw.queue.caught import DAY, Caught, Room
from smtpgw.queue.store import Content, Damaged, QueuedMail


@dataclass(frozen=True, slots=True)
class QuarantineOptions:
    """`lifetime`: seconds until an entry expires.  `room`: how much one shard may hold."""

    lifetime: float = 30 * DAY
    room: Room = field(default_factory=Room)


def caught(
    options: QuarantineOptions,
    findings: Sequence[Found],
    mail: Mail,
    *,
    listener: str,
    macros: Mapping[str, bytes] | None = None,
    actions: Actions = NO_ACTIONS,
) -> Caught:
    """The entry of a mail as its milters were shown it.  `macros` are those of its transaction that
    the settings do not say anew."""
    return Caught(
        findings=tuple(findings),
        listener=listener,
        macros=dict(macros or {}),
        hidden=tuple(place for place, each in enumerate(mail.headers) if each.hidden),
        hold=actions.hold,
        redirect=actions.redirect,
        bcc=actions.bcc,
        filtered="" if actions.redirect else actions.filter,
        lifetime=options.lifetime,
        room=options.room,
    )


def again(
    entry: Caught,
    queue_id: str,
    findings: Sequence[Found],
    lifetime: float,
    *,
    passed: Sequence[Found],
) -> Caught:
    """The entry that takes the place of one that was released, for what was found then, where
    `passed` did not count.  It needs no room beyond the other's."""
    return replace(
        entry,
        findings=tuple(findings),
        passing=tuple(passed),
        origin=entry.origin or queue_id,
        lifetime=lifetime,
        room=None,
    )


def passing(entry: Caught, *, released: bool) -> tuple[Found, ...]:
    """All that does not count from here on.  That a milter could not look counts until a
    postmaster has `released` the mail in spite of it."""
    findings = (each for each in entry.findings if released or not each.awaited)
    return tuple(dict.fromkeys((*entry.passing, *findings)))


def actions(entry: Caught) -> Actions:
    """What access(5) tables want done with the mail once it passes."""
    return Actions(hold=entry.hold, filter=entry.filtered, redirect=entry.redirect, bcc=entry.bcc)


def mail_of(queued: QueuedMail, entry: Caught, content: Content) -> Mail:
    """The mail as its milters were shown it.  Raises Damaged."""
    fields, separator, offset = split_header(content.head)
    if offset != len(content.head):
        raise Damaged("header is not what was stored")
    return Mail(
        session=queued.session,
        envelope=Envelope(
            queued.sender,
            queued.sender_args,
            tuple(Recipient(each.address, each.args) for each in queued.recipients),
        ),
        headers=_hidden(fields, frozenset(entry.hidden)),
        body=content.body,
        separator=separator,
    )


def _hidden(fields: tuple[HeaderField, ...], places: frozenset[int]) -> tuple[HeaderField, ...]:
    """The fields with those marked that milters are not shown."""
    return tuple(
        replace(each, hidden=True) if place in places else each for place, each in enumerate(fields)
    )
