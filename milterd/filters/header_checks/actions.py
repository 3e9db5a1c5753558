"""The actions of header_checks(5): reading one, and what it needs.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from milterd.core.filter import Need

EDITING = frozenset({"REPLACE", "IGNORE", "STRIP", "PREPEND"})
LOGGING = frozenset({"WARN", "INFO"})
KNOWN = (
    EDITING
    | LOGGING
    | {"REJECT", "DISCARD", "HOLD", "REDIRECT", "BCC", "FILTER", "PASS", "DUNNO", "OK"}
)
_NEEDS = {
    "HOLD": Need.QUARANTINE,
    "REDIRECT": Need.RECIPIENTS | Need.CHANGE_RECIPIENTS,
    "BCC": Need.CHANGE_RECIPIENTS,
}


@dataclass(frozen=True, slots=True)
class Action:
    """A word in upper case, and the text behind it."""

    word: str
    text: bytes


def parse(result: bytes) -> Action:
    """A result as cleanup(8) reads it: up to the first blank, and what comes behind blanks."""
    at = next((n for n, each in enumerate(result) if each in b" \t"), len(result))
    word = result[:at].decode("ascii", "replace").upper()
    return Action(word, result[at:].lstrip(b" \t\n\v\f\r"))


def needs(word: str) -> Need:
    """What has to be negotiated for an action, besides header fields and the body."""
    return _NEEDS.get(word, Need(0))


def wrong(action: Action, *, certain: bool) -> str:
    """What was expected instead of an action that cannot be carried out, empty if it can.

    `certain` is false where the text depends on what a pattern will find.
    """
    if action.word not in KNOWN:
        return f"an action, one of {', '.join(sorted(KNOWN))}"
    if action.word in ("PREPEND", "REPLACE", "FILTER", "REDIRECT", "BCC") and not action.text:
        return f"a text behind {action.word}"
    if not certain:
        return ""
    if action.word in ("REDIRECT", "BCC") and b"@" not in action.text:
        return f"user@domain behind {action.word}"
    if action.word == "FILTER" and b":" not in action.text:
        return "transport:destination behind FILTER"
    return ""
