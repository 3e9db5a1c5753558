"""Which of a milter's edits are fit to be applied.

`milterd.wire.convert` has already refused what would break a header or a path.
Here stand the gateway's own rules: how long a field may be, where mail may be
sent, which ESMTP parameters are honoured.  Each edit is judged for itself, and
what is refused says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
from smtpgw.chain.options import EditLimits

QUARANTINE_TEXT = 100
"""Octets of a quarantine reason that are kept, as in Postfix."""

_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=[!-<>-~]+)?\Z")
_SENDER_PARAMETERS = frozenset({b"RET", b"ENVID"})
_RECIPIENT_PARAMETERS = frozenset({b"NOTIFY", b"ORCPT"})


@dataclass(frozen=True, slots=True)
class Review:
    """Edits to apply, the hold reason if there is one, and what was refused, in words."""

    edits: tuple[Edit, ...]
    quarantine: bytes | None
    refused: tuple[str, ...]


def review(edits: Iterable[Edit], limits: EditLimits) -> Review:
    """Keep the edits that may be applied; say of each other one why not."""
    kept: list[Edit] = []
    refused: list[str] = []
    quarantine: bytes | None = None
    for edit in edits:
        # One after the other is what match does; most edits are of the first kind.
        match edit:
            case InsertHeader() | AddHeader() | ChangeHeader():
                if len(edit.name) + len(edit.value) + 3 <= limits.field_size:
                    kept.append(edit)
                else:
                    _keep(edit, _too_long(edit, limits), kept, refused)
            case ReplaceBody() | DeleteRecipient():
                kept.append(edit)
            case AddRecipient():
                known = _known(edit, edit.args, _RECIPIENT_PARAMETERS, refused)
                _keep(known, limits.recipient(edit.address), kept, refused)
            case ChangeSender():
                known = _known(edit, edit.args, _SENDER_PARAMETERS, refused)
                _keep(known, limits.sender(edit.address), kept, refused)
            case Quarantine():
                quarantine = hold_text(edit.reason)
    return Review(tuple(kept), quarantine, tuple(refused))


def _keep(edit: Edit, fault: str | None, kept: list[Edit], refused: list[str]) -> None:
    if fault is None:
        kept.append(edit)
    else:
        refused.append(f"{type(edit).__name__}: {fault}")


def _too_long(edit: AddHeader | InsertHeader | ChangeHeader, limits: EditLimits) -> str:
    return f"field {edit.name[:40]!r} longer than {limits.field_size} octets"


def _known(
    edit: AddRecipient | ChangeSender,
    args: tuple[bytes, ...],
    names: frozenset[bytes],
    refused: list[str],
) -> AddRecipient | ChangeSender:
    """The edit with only those ESMTP parameters that Postfix honours too."""
    kept = []
    for each in args:
        match = _PARAMETER.match(each)
        if match is not None and match[1].upper() in names:
            kept.append(each)
        else:
            refused.append(f"{type(edit).__name__}: parameter {each[:40]!r} is not honoured")
    return replace(edit, args=tuple(kept))


def hold_text(reason: bytes) -> bytes:
    """A quarantine reason: printable, at most 100 octets."""
    text = reason[:QUARANTINE_TEXT]
    return bytes(each if 32 <= each < 127 else 63 for each in text) or b"milter"
