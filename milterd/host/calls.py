"""Edits as calls of pymilter's, which takes and gives text in UTF-8."""

from __future__ import annotations

from typing import Any

from milterd.core.decision import Decision
from milterd.host import emit
from milterd.wire import messages as wire

Call = tuple[str, tuple[Any, ...]]
"""A method of pymilter's context, and what it is given."""


def check_text(decision: Decision) -> None:
    """Raise :class:`~milterd.host.emit.UnsayableError` for octets that are not UTF-8.

    pymilter takes str and encodes it as UTF-8; surrogates and bytes it refuses.
    """
    for edit in emit.said_edits(decision):
        for name in ("name", "value", "address", "reason"):
            octets = getattr(edit, name, b"")
            if octets.isascii():
                continue
            try:
                octets.decode("utf-8")
            except UnicodeDecodeError:
                kind = type(edit).__name__
                raise emit.UnsayableError(
                    f"{kind}: {octets[:80]!r} is not UTF-8, which libmilter's binding "
                    "cannot say; host = 'native' can"
                ) from None


def of(edit: wire.EditReply) -> Call:
    """One edit as a call into libmilter, which raises `milter.error` where it is refused."""
    match edit:
        case wire.AddHeaderReply(name, value):
            return "addheader", (name.decode(), value.decode())
        case wire.InsertHeaderReply(index, name, value):
            return "addheader", (name.decode(), value.decode(), index)
        case wire.ChangeHeaderReply(index, name, value):
            return "chgheader", (name.decode(), index, value.decode())
        case wire.ReplaceBodyChunk(octets):
            return "replacebody", (octets,)
        case wire.AddRcptReply(address):
            return "addrcpt", (address.decode(),)
        case wire.AddRcptParReply(address, args):
            return "addrcpt", (address.decode(), args.decode())
        case wire.DelRcptReply(address):
            return "delrcpt", (address.decode(),)
        case wire.ChangeFromReply(address, args):
            return "chgfrom", (address.decode(), args.decode() or None)
        case wire.QuarantineReply(reason):
            return "quarantine", (reason.decode(),)
