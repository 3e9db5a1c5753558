"""From a decision to the milter's replies: the same for both hosts.

Everything that can be wrong with an edit is found by :func:`check` before the first
reply is made, so that a decision is said wholly or not at all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

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
from milterd.core.decision import Decision, Reply, Verdict
from milterd.wire import messages as wire
from milterd.wire.constants import CHUNK, Actions
from milterd.wire.convert import edit_to_replies
from milterd.wire.errors import LocalError
from milterd.wire.replytext import make_reply

REPLY_TEXT_LIMIT = 400
"""Octets of a reply's text: with codes and CRLF within RFC 5321's 512 of a reply line."""

_FRAME_LIMIT = CHUNK + 5
"""Octets of an edit's frame: libmilter sends no larger payload (mfdef.h), so neither do we."""


_FIELD_EDITS = (AddHeader, InsertHeader, ChangeHeader)
_SHORT = 128
"""Octets of name and value of an edit that is remembered: a mail's own field may have any name."""
_REMEMBERED = 256
_LONG = 4096
"""Octets of the value of one that is remembered until it is said."""


_CONTINUE = wire.Continue()


class UnsayableError(Exception):
    """An edit that this connection cannot carry: not negotiated, too long, or no clean syntax."""


def needed_actions(edit: Edit) -> Actions:
    """What must have been negotiated for this edit."""
    match edit:
        case AddHeader() | InsertHeader():
            return Actions.ADDHDRS
        case ChangeHeader():
            return Actions.CHGHDRS
        case ReplaceBody():
            return Actions.CHGBODY
        case AddRecipient():
            return Actions.ADDRCPT_PAR if edit.args else Actions.ADDRCPT
        case DeleteRecipient():
            return Actions.DELRCPT
        case ChangeSender():
            return Actions.CHGFROM
        case Quarantine():
            return Actions.QUARANTINE


def said_edits(decision: Decision) -> tuple[Edit, ...]:
    """The edits that go with this verdict: none unless the mail goes on."""
    goes_on = decision.verdict in (Verdict.CONTINUE, Verdict.ACCEPT)
    return decision.edits if goes_on else ()


def check(decision: Decision, agreed: Actions, *, leading_space: bool) -> None:
    """Raise :class:`UnsayableError` for the first edit that could not be said as it is.

    That includes whatever could become another field, command or line: see
    :func:`milterd.wire.convert.edit_to_replies`.
    """
    for edit in said_edits(decision):
        if _is_common(edit):
            _checked_before(edit, agreed, leading_space)
        else:
            _check(edit, agreed, leading_space)


def _check(edit: Edit, agreed: Actions, leading_space: bool) -> None:
    kind = type(edit).__name__
    if needed_actions(edit) not in agreed:
        raise UnsayableError(f"{kind} was not negotiated with the MTA")
    if isinstance(edit, ReplaceBody):
        return  # any octets will do, and there may be many
    try:
        length = max(len(each.encode()) for each in _replies_now(edit, leading_space))
    except LocalError as error:
        raise UnsayableError(f"{kind}: {error.reason}") from error
    if length > _FRAME_LIMIT:
        raise UnsayableError(f"{kind}: {length} octets, over the {_FRAME_LIMIT} of a packet")


def all_common(edits: Iterable[Edit]) -> bool:
    """Whether all of these may well be made for other mails, too."""
    return all(map(_is_common, edits))


def _is_common(edit: Edit) -> bool:
    """Whether the same edit may well have been made for other mails: a short field of a filter's
    own, say, or one that is taken off."""
    return isinstance(edit, _FIELD_EDITS) and len(edit.name) + len(edit.value) <= _SHORT


_checked_before = functools.lru_cache(_REMEMBERED)(_check)  # what raises is not remembered


@functools.lru_cache(8)  # edits are checked, and then said
def _replies_of_late(edit: Edit, leading_space: bool) -> tuple[wire.EditReply, ...]:
    return tuple(edit_to_replies(edit, leading_space))


def _replies_now(edit: Edit, leading_space: bool) -> Iterable[wire.EditReply]:
    if isinstance(edit, _FIELD_EDITS) and len(edit.value) <= _LONG:
        return _replies_of_late(edit, leading_space)
    return edit_to_replies(edit, leading_space)


@functools.lru_cache(_REMEMBERED)
def _replies_again(edit: Edit, leading_space: bool) -> tuple[wire.EditReply, ...]:
    return tuple(edit_to_replies(edit, leading_space))


def edit_replies(edits: Iterable[Edit], *, leading_space: bool) -> Iterator[wire.EditReply]:
    """The wire replies of `edits`, in order; a body in pieces, one at a time."""
    for edit in edits:
        if _is_common(edit):
            yield from _replies_again(edit, leading_space)
        else:
            yield from _replies_now(edit, leading_space)


def reply_text(reply: Reply) -> str:
    """A reply's text as any SMTP client can take it: ASCII, on one line, and bounded."""
    line = reply.text.replace("\n", " ")
    return line.encode("ascii", "replace").decode("ascii")[:REPLY_TEXT_LIMIT]


def final_reply(decision: Decision) -> wire.FinalReply:
    """The reply that ends the message."""
    match decision.verdict:
        case Verdict.CONTINUE:
            return _CONTINUE
        case Verdict.ACCEPT:
            return wire.Accept()
        case Verdict.DISCARD:
            return wire.Discard()
        case Verdict.REJECT | Verdict.TEMPFAIL:
            return _refusal(decision)


def _refusal(decision: Decision) -> wire.FinalReply:
    reply = usable_reply(decision)
    if reply is not None:
        return make_reply(reply.code, reply.enhanced, reply_text(reply))
    return wire.Reject() if decision.verdict is Verdict.REJECT else wire.TempFail()


def usable_reply(decision: Decision) -> Reply | None:
    """The decision's reply, where its code agrees with the verdict.

    The code decides at the MTA, so a 4xx with REJECT would say something else.
    """
    reply = decision.reply
    wanted = 5 if decision.verdict is Verdict.REJECT else 4
    return reply if reply is not None and reply.code // 100 == wanted else None
