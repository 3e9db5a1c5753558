"""What a mail is, what may be done to it, and how: pure values and functions.

This is the public API of a filter (docs/write-a-filter.md): what `__all__` names stays, with its
meaning, from one version to the next.  Nothing in this room opens a socket, reads a clock, logs,
or knows of libmilter.  It imports nothing else of this project.  (`apply`, which makes the edits,
is :func:`milterd.core.apply.apply`: a package cannot have a function by the name of its module.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from milterd.core.decision import Decision, Reason, Reply, Verdict
    from milterd.core.filter import Filter, Need, NoFacts
    from milterd.core.mail import (
        Body,
        BytesBody,
        Client,
        Direction,
        Envelope,
        Family,
        HeaderField,
        Mail,
        Recipient,
        Session,
        body_octets,
        parse_message,
    )

__all__ = [
    "AddHeader", "AddRecipient", "Body", "BytesBody", "ChangeHeader", "ChangeSender", "Client",
    "Decision", "DeleteRecipient", "Direction", "Edit", "Envelope", "Family", "Filter",
    "HeaderField", "InsertHeader", "Mail", "Need", "NoFacts", "Quarantine", "Reason", "Recipient",
    "ReplaceBody", "Reply", "Session", "Verdict", "body_octets", "parse_message",
]  # fmt: skip

_MODULES = {
    "actions": ("AddHeader", "AddRecipient", "ChangeHeader", "ChangeSender", "DeleteRecipient",
                "Edit", "InsertHeader", "Quarantine", "ReplaceBody"),
    "decision": ("Decision", "Reason", "Reply", "Verdict"),
    "filter": ("Filter", "Need", "NoFacts"),
}  # fmt: skip
"""Where the names are that do not come from `mail`."""


def __getattr__(name: str) -> Any:
    """A name of the API, from its module when it is asked for: a command that needs one of them
    does not wait for all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    place = next((module for module, names in _MODULES.items() if name in names), "mail")
    return getattr(importlib.import_module(f"milterd.core.{place}"), name)
