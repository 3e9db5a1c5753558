"""What was played, as lines for a reader and as values for a program.

Octets of a mail or a milter are escaped before they reach a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator

from milterd.base.escaping import escape
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
from milterd.core.mail import Envelope
from milterd.lab.client import Played, StageReply
from milterd.wire import messages as m

_WIDTH = 2000
Value = str | int | list[str] | None


def readable(octets: bytes) -> str:
    """Octets as one line of text without control characters."""
    return escape(octets.decode("utf-8", "backslashreplace"), _WIDTH)


def told(played: Played) -> str:
    """The SMTP reply the client would get; empty where the mail passes."""
    if played.reply is None:
        return played.own_text
    words = (str(played.reply.code), played.reply.enhanced, played.reply.text)
    return " ".join(each for each in words if each)


def edit_fields(edit: Edit) -> dict[str, Value]:
    """An edit as names and values; a new body only by its size."""
    match edit:
        case AddHeader():
            return {"edit": "add header", **_field(edit.name, edit.value)}
        case InsertHeader():
            return {
                "edit": "insert header",
                "index": edit.index,
                **_field(edit.name, edit.value),
            }
        case ChangeHeader():
            kind = "change header" if edit.value else "delete header"
            return {"edit": kind, "index": edit.index, **_field(edit.name, edit.value)}
        case ReplaceBody():
            return {"edit": "replace body", "octets": edit.body.size}
        case AddRecipient():
            return {"edit": "add recipient", **_address(edit.address, edit.args)}
        case DeleteRecipient():
            return {"edit": "delete recipient", **_address(edit.address, ())}
        case ChangeSender():
            return {"edit": "change sender", **_address(edit.address, edit.args)}
        case Quarantine():
            return {"edit": "quarantine", "reason": readable(edit.reason)}


def _field(name: bytes, value: bytes) -> dict[str, Value]:
    return {"name": readable(name), "value": readable(value)}


def _address(address: bytes, args: tuple[bytes, ...]) -> dict[str, Value]:
    return {"address": readable(address), "args": [readable(each) for each in args]}


def reply_name(reply: m.Reply) -> str:
    """A reply in a word or two."""
    if isinstance(reply, m.ReplyCode):
        return readable(reply.text)
    return type(reply).__name__.removesuffix("Reply").lower()


def as_lines(name: str, played: Played) -> Iterator[str]:
    """The report for a reader."""
    yield f"{escape(name, _WIDTH)}: {played.verdict.value} {told(played)}".rstrip()
    for each in played.replies:
        if not isinstance(each.reply, m.EditReply):
            yield f"  {_stage(each)}: {reply_name(each.reply)}"
    for edit in played.edits:
        fields = edit_fields(edit)
        kind = fields.pop("edit")
        yield f"  edit: {kind} {_words(fields)}"
    for address in played.refused:
        yield f"  refused recipient: {readable(address)}"
    if played.quarantine is not None:
        yield f"  held: {readable(played.quarantine)}"
    for note in played.notes:
        yield f"  note: {note}"
    for violation in played.violations:
        yield f"  protocol violation: {violation}"


def _stage(answered: StageReply) -> str:
    return f"{answered.stage} {readable(answered.subject)}".rstrip()


def _words(fields: dict[str, Value]) -> str:
    flat = ((name, " ".join(v) if isinstance(v, list) else v) for name, v in fields.items())
    return " ".join(f"{name}={value}" for name, value in flat if value not in ("", None))


def as_values(name: str, played: Played) -> dict[str, object]:
    """The report for a program."""
    return {
        "file": name,
        "verdict": played.verdict.value,
        "reply": told(played) or None,
        "replies": [
            {
                "stage": each.stage,
                "subject": readable(each.subject),
                "reply": reply_name(each.reply),
            }
            for each in played.replies
        ],
        "edits": [edit_fields(each) for each in played.edits],
        "refused": [readable(each) for each in played.refused],
        "violations": list(played.violations),
        "quarantine": None if played.quarantine is None else readable(played.quarantine),
        "notes": list(played.notes),
        "envelope": envelope_values(played.after.envelope),
    }


def envelope_values(envelope: Envelope) -> dict[str, object]:
    """An envelope for a program."""
    return {
        "sender": readable(envelope.sender),
        "args": [readable(each) for each in envelope.sender_args],
        "recipients": [_address(each.address, each.args) for each in envelope.recipients],
    }
