"""Edits as calls of pymilter's, which takes and gives text in UTF-8."""

from __future__ import annotations

from typing import Any

from milterd.core.decision import Decision
from milterd.host import emit
from milterd.wire import messages as wire


def check_text(decision: Decision) -> None:
    """Raise :class:`~milterd.host.emit.UnsayableError` for octets that are not UTF-8.

    pymilter takes str and encodes it as UTF-8; surrogates and bytes it refuses.
    """
    for edit in emit.said_edits(decision):
        for name in ("name", "value", "address", "reason"):
            octets = getattr(edit, name, b"")
            try:
                octets.decode("utf-8")
            except UnicodeDecodeError:
                kind = type(edit).__name__
                raise emit.UnsayableError(
                    f"{kind}: {octets[:80]!r} is not UTF-8, which libmilter's binding "
                    "cannot say; host = 'native' can"
                ) from None


def make(context: Any, edit: wire.EditReply) -> None:
    """One edit as a call into libmilter.  Raises `milter.error` where it is refused."""
    match edit:
        case wire.AddHeaderReply(name, value):
            context.addheader(name.decode(), value.decode())
        case wire.InsertHeaderReply(index, name, value):
            context.addheader(name.decode(), value.decode(), index)
        case wire.ChangeHeaderReply(index, name, value):
            context.chgheader(name.decode(), index, value.decode())
        case wire.ReplaceBodyChunk(octets):
            context.replacebody(octets)
        case wire.AddRcptReply(address):
            context.addrcpt(address.decode())
        case wire.AddRcptParReply(address, args):
            context.addrcpt(address.decode(), args.decode())
        case wire.DelRcptReply(address):
            context.delrcpt(address.decode())
        case wire.ChangeFromReply(address, args):
            context.chgfrom(address.decode(), args.decode() or None)
        case wire.QuarantineReply(reason):
            context.quarantine(reason.decode())
