"""The edits a filter may ask for, as frozen values.

This is the one vocabulary of the house.  `milterd.wire` turns edits into bytes,
`milterd.host` into libmilter calls, and :mod:`milterd.core.apply` into the new
mail.  A header value here is what stands after the colon, leading space and
CRLF folds included, exactly as in :class:`~milterd.core.mail.HeaderField`.
"""

from __future__ import annotations

from milterd.core.mail import Body
from milterd.core.values import value


@value
class AddHeader:
    """Append a field below all others."""

    name: bytes
    value: bytes


@value
class InsertHeader:
    """Insert a field before the one at `index`, counted from 0 over all fields
    as they will be delivered, hidden ones included; too large an index appends."""

    index: int
    name: bytes
    value: bytes


@value
class ChangeHeader:
    """Give the `index`-th visible field of that name (from 1; 0 means 1) a new value.

    An empty value deletes it.  A missing field is appended, unless the value is
    empty, which then does nothing.
    """

    name: bytes
    index: int
    value: bytes


@value
class ReplaceBody:
    """Put another body in place of the whole one."""

    body: Body


@value
class AddRecipient:
    """Add an envelope recipient, with ESMTP parameters if any."""

    address: bytes
    args: tuple[bytes, ...] = ()


@value
class DeleteRecipient:
    """Remove every envelope recipient with this address."""

    address: bytes


@value
class ChangeSender:
    """Change the envelope sender, with ESMTP parameters if any."""

    address: bytes
    args: tuple[bytes, ...] = ()


@value
class Quarantine:
    """Keep the mail in the hold queue, for this reason.  Not a final verdict."""

    reason: bytes


HeaderEdit = AddHeader | InsertHeader | ChangeHeader
EnvelopeEdit = AddRecipient | DeleteRecipient | ChangeSender
Edit = HeaderEdit | EnvelopeEdit | ReplaceBody | Quarantine
