"""apply(mail, edits): the one place that knows what an edit does to a mail.

Header indexes count as Postfix counts them (the milter protocol leaves it open):
an insertion counts every field, a change counts the visible ones of its name, and
a deletion shifts the later ones up at once.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from milterd.core.mail import CRLF, Envelope, HeaderField, Mail, Recipient


def apply(mail: Mail, edits: Iterable[Edit]) -> Mail:
    """The mail after all `edits`, in their order.

    A quarantine leaves the mail as it is: it says where the mail goes.
    Body and header that no edit touches are the same objects as before.
    """
    headers: list[HeaderField] | None = None
    envelope, body, separator = mail.envelope, mail.body, mail.separator
    for edit in edits:
        match edit:
            case AddHeader() | InsertHeader() | ChangeHeader():
                if headers is None:
                    headers = list(mail.headers)
                _edit_header(headers, edit)
            case ReplaceBody():
                body = edit.body
                separator = separator or (CRLF if body.size else b"")
            case Quarantine():
                pass
            case _:
                envelope = _edit_envelope(envelope, edit)
    kept = mail.headers if headers is None else tuple(headers)
    return replace(mail, envelope=envelope, headers=kept, body=body, separator=separator)


def _edit_header(headers: list[HeaderField], edit: AddHeader | InsertHeader | ChangeHeader) -> None:
    new = HeaderField(edit.name, edit.value)
    match edit:
        case AddHeader():
            headers.append(new)
        case InsertHeader():
            headers.insert(edit.index, new)
        case ChangeHeader():
            at = _find(headers, edit.name, edit.index or 1)
            if at is None:
                if edit.value:
                    headers.append(new)
            elif edit.value:
                headers[at] = new
            else:
                del headers[at]


def _find(headers: list[HeaderField], name: bytes, nth: int) -> int | None:
    """Where the nth visible field of that name stands."""
    for at, each in enumerate(headers):
        if not each.hidden and each.named(name):
            nth -= 1
            if nth == 0:
                return at
    return None


def _edit_envelope(
    envelope: Envelope, edit: AddRecipient | DeleteRecipient | ChangeSender
) -> Envelope:
    match edit:
        case ChangeSender():
            return replace(envelope, sender=edit.address, sender_args=edit.args)
        case AddRecipient():
            if any(each.address == edit.address for each in envelope.recipients):
                return envelope
            added = Recipient(edit.address, edit.args)
            return replace(envelope, recipients=(*envelope.recipients, added))
        case DeleteRecipient():
            left = tuple(each for each in envelope.recipients if each.address != edit.address)
            return replace(envelope, recipients=left)
