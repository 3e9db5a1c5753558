"""Whether what a milter did is what was wished for, and what it did in the scenario's words."""

from __future__ import annotations

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
from milterd.core.mail import body_octets
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.format import format_edit, format_wish
from milterd.lab.scenario.talk import Answer
from milterd.lab.show import readable
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Actions, Protocol
from milterd.wire.replytext import parse_reply

_WIDTH = 300
_NAMES = {kind: name for name, kind in s.ANSWERS.items()}


def as_wish(edit: Edit) -> s.EditIs:
    """An edit as the wish that asks for exactly it."""
    match edit:
        case AddHeader():
            return s.EditIs("add-header", None, edit.name, edit.value)
        case InsertHeader():
            return s.EditIs("insert-header", edit.index, edit.name, edit.value)
        case ChangeHeader():
            kind = "change-header" if edit.value else "delete-header"
            return s.EditIs(kind, edit.index, edit.name, edit.value or None)
        case ReplaceBody():
            return s.EditIs("replace-body", value=body_octets(edit.body))
        case AddRecipient():
            return s.EditIs("add-rcpt", name=edit.address, args=edit.args)
        case DeleteRecipient():
            return s.EditIs("del-rcpt", name=edit.address, args=())
        case ChangeSender():
            return s.EditIs("change-from", name=edit.address, args=edit.args)
        case Quarantine():
            return s.EditIs("quarantine", value=edit.reason)


def edit_matches(wish: s.EditIs, edit: Edit) -> bool:
    """Whether this edit is the one wished for."""
    found = as_wish(edit)
    if wish.kind != found.kind or wish.index not in (None, found.index):
        return False
    if wish.name is not None and not _same_name(wish, found.name or b""):
        return False
    if wish.args is not None and wish.args != found.args:
        return False
    return wish.value is None or text_matches(wish.value, found.value)


def _same_name(wish: s.EditIs, name: bytes) -> bool:
    if wish.kind in s.HEADER_EDITS:
        return wish.name is not None and wish.name.lower() == name.lower()
    return wish.name == name


def text_matches(wish: s.Text, found: s.Text | None) -> bool:
    """The same text, a fold written as LF or CRLF; or one in which a pattern is found, where
    the blanks at its beginning do not count."""
    octets = found if isinstance(found, bytes) else b""
    if isinstance(wish, s.Pattern):
        return wish.found_in(octets.lstrip(b" \t"))
    return wish.replace(b"\r\n", b"\n") == octets.replace(b"\r\n", b"\n")


def reply_matches(wish: s.ReplyIs, reply: object) -> bool:
    """Whether an answer is this SMTP reply."""
    if not isinstance(reply, m.ReplyCode):
        return False
    found = parse_reply(reply.text)
    same_code = all(a in ("x", b) for a, b in zip(wish.code, str(found.code), strict=True))
    if not same_code or (wish.enhanced and wish.enhanced != found.enhanced):
        return False
    return wish.text is None or text_matches(wish.text, found.text.encode())


def answer_matches(wish: s.AnswerIs, answer: Answer) -> bool:
    """Whether an answer is one of these."""
    return any(isinstance(answer.final, s.ANSWERS[name]) for name in wish.names)


def told(answer: Answer) -> str:
    """An answer in the scenario's words."""
    final = answer.final
    if final is None:
        return "nothing: no answer was due"
    if isinstance(final, m.ReplyCode):
        return f"reply {readable(final.text[:_WIDTH])}"
    if isinstance(final, m.Negotiate):
        return "a negotiation"
    return _NAMES.get(type(final), type(final).__name__)


def edit_told(edit: Edit, width: int | None = _WIDTH) -> str:
    """An edit in the scenario's words, cut at a width."""
    text = format_edit(as_wish(edit)).decode("ascii", "backslashreplace")
    return (
        text
        if width is None or len(text) <= width
        else f"{text[:width]}...[{len(text)} characters]"
    )


def wish_told(wish: s.Wish) -> str:
    """A wish in the scenario's words."""
    return format_wish(wish).decode("ascii", "backslashreplace")


def agreement_matches(wish: s.Agreement, agreed: Negotiated) -> bool:
    """Whether what was agreed is what was wished for."""
    match wish:
        case s.VersionIs():
            return wish.version == agreed.version
        case s.MacrosAre():
            return wish.names == _names(agreed, wish)
        case s.FlagsAre():
            found = int(agreed.actions if wish.field == "actions" else agreed.protocol)
            if wish.exact is not None:
                return found == wish.exact
            return found & wish.having == wish.having and not found & wish.lacking


def _names(agreed: Negotiated, wish: s.MacrosAre) -> tuple[bytes, ...] | None:
    found = agreed.macros.get(wish.stage)
    return None if found is None else tuple(each.encode() for each in found)


def agreement_told(wish: s.Agreement, agreed: Negotiated) -> str:
    """What was agreed, as far as the wish concerns it."""
    match wish:
        case s.VersionIs():
            return f"version {agreed.version}"
        case s.MacrosAre():
            names = _names(agreed, wish)
            shown = "default" if names is None else b" ".join(names).decode()
            return f"macros {shown}".strip()
        case s.FlagsAre() if wish.field == "actions":
            return f"actions {_flags(Actions, int(agreed.actions))}"
        case s.FlagsAre():
            return f"protocol {_flags(Protocol, int(agreed.protocol))}"


def _flags(kind: type[Actions] | type[Protocol], value: int) -> str:
    names = [each.name or "" for each in kind if int(each) & value and each.name != "ALL"]
    rest = value & ~int(kind.ALL)
    return " ".join([*names, *([hex(rest)] if rest else [])]) or "none"
