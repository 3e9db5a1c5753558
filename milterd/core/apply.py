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
    header: _Header | None = None
    envelope, body, separator = mail.envelope, mail.body, mail.separator
    for edit in edits:
        match edit:
            case InsertHeader() | AddHeader() | ChangeHeader():
                header = header or _Header(mail.headers)
                header.edit(edit)
            case ReplaceBody():
                body = edit.body
                separator = separator or (CRLF if body.size else b"")
            case Quarantine():
                pass
            case _:
                envelope = _edit_envelope(envelope, edit)
    kept = mail.headers if header is None else header.fields()
    return Mail(mail.session, envelope, kept, body, separator)


class _Header:
    """Header fields under edit.

    A deleted field leaves an empty place, so that the index of places by name holds
    from one change to the next: a thousand changes look at the header once.
    """

    def __init__(self, fields: Iterable[HeaderField]) -> None:
        self._places: list[HeaderField | None] = list(fields)
        self._named: dict[bytes, list[int]] | None = None
        self._emptied = False

    def fields(self) -> tuple[HeaderField, ...]:
        """What is there now."""
        return tuple([each for each in self._places if each is not None])

    def edit(self, edit: AddHeader | InsertHeader | ChangeHeader) -> None:
        """Carry out one edit."""
        new = HeaderField(edit.name, edit.value)
        match edit:
            case AddHeader():
                self._append(new)
            case InsertHeader():
                if self._emptied:
                    self._places, self._emptied = list(self.fields()), False
                self._places.insert(edit.index, new)
                self._named = None
            case ChangeHeader():
                self._change(new, edit.index or 1)

    def _append(self, new: HeaderField) -> None:
        if self._named is not None:
            self._named.setdefault(new.name.lower(), []).append(len(self._places))
        self._places.append(new)

    def _change(self, new: HeaderField, nth: int) -> None:
        places = self._index().setdefault(new.name.lower(), [])
        if nth > len(places):
            if new.value:
                self._append(new)
        elif new.value:
            self._places[places[nth - 1]] = new
        else:
            self._places[places.pop(nth - 1)] = None
            self._emptied = True

    def _index(self) -> dict[bytes, list[int]]:
        """The places of the visible fields by name in lower case, top to bottom."""
        if self._named is None:
            self._named = {}
            for at, each in enumerate(self._places):
                if each is not None and not each.hidden:
                    self._named.setdefault(each.name.lower(), []).append(at)
        return self._named


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
