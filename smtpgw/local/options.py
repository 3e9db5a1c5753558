"""The options of sendmail(1), as Postfix has them.

Those that mean nothing here are taken and ignored, as programs give them out of habit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

_WITH_VALUE = frozenset("ABCFLNORVXbfhopqr")
_ALONE = frozenset("GIUcimnstv")
_IGNORED = frozenset("AGLOUXcehmnpsvx")
_ERRORS = frozenset("e")
"""`-e`: how to tell of errors; Postfix takes it with a value, which may be missing."""


class UsageError(Exception):
    """Not to be understood; the reason is for the user."""


class Mode(enum.Enum):
    """What the command is to do."""

    MAIL = "hand in a mail"
    SMTP = "talk SMTP on standard input and output"
    LIST = "list the queue"
    FLUSH = "deliver what waits"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was told.  `sender` is None where -f was not given."""

    mode: Mode = Mode.MAIL
    recipients: tuple[str, ...] = ()
    from_header: bool = False
    sender: str | None = None
    full_name: str | None = None
    dots: bool = True
    notify: str | None = None
    ret: str | None = None
    envid: str | None = None
    body: str | None = None
    settings: str | None = None
    flush: tuple[str, ...] = field(default_factory=tuple)


_MODES = {"m": Mode.MAIL, "s": Mode.SMTP, "p": Mode.LIST, "i": Mode.NOTHING}


def parse(words: Sequence[str], name: str = "sendmail") -> Options:
    """The options in a command line; `name` may be mailq or newaliases.  Raises UsageError."""
    found = Options(mode={"mailq": Mode.LIST, "newaliases": Mode.NOTHING}.get(name, Mode.MAIL))
    recipients: list[str] = []
    for letter, value in _letters(words):
        if not letter:
            recipients.append(value)
        elif letter not in _IGNORED:
            found = _apply(found, letter, value)
    return replace(found, recipients=tuple(recipients))


def _letters(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Letters with their values; operands, wherever they stand, with an empty letter."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            yield from (("", each) for each in rest)
            return
        if len(word) < 2 or not word.startswith("-"):
            yield "", word
            continue
        if word == "-q":
            yield "q", ""
            continue
        yield from _cluster(word, rest)


def _cluster(word: str, rest: list[str]) -> Iterator[tuple[str, str]]:
    at = 1
    while at < len(word):
        letter, after = word[at], word[at + 1 :]
        at += 1
        if letter in _ERRORS:
            return
        if letter in _WITH_VALUE:
            if not after and not rest:
                raise UsageError(f"option -{letter} needs a value")
            yield letter, after or rest.pop(0)
            return
        if letter not in _ALONE:
            raise UsageError(f"unknown option -{letter}")
        yield letter, ""


def _apply(found: Options, letter: str, value: str) -> Options:
    match letter:
        case "t":
            return replace(found, from_header=True)
        case "i":
            return replace(found, dots=False)
        case "o":
            return _old_option(found, value)
        case "f" | "r":
            return replace(found, sender=value)
        case "F":
            return replace(found, full_name=value)
        case "I":
            return replace(found, mode=Mode.NOTHING)
        case "b":
            return replace(found, mode=_mode(value))
        case "q":
            return _queue(found, value)
        case "C":
            return replace(found, settings=value)
        case _:
            return _dsn(found, letter, value)


def _old_option(found: Options, value: str) -> Options:
    """-oi: dots; -oA FILE and all others are ignored, as Postfix does."""
    return replace(found, dots=False) if value == "i" else found


def _mode(value: str) -> Mode:
    mode = _MODES.get(value)
    if mode is None:
        raise UsageError(f"-b{value} is not supported (there are: -bm -bs -bp -bi)")
    return mode


def _queue(found: Options, value: str) -> Options:
    """-q, -qIid, -qRsite; an interval, as for a daemon, is ignored."""
    if value[:1] == "I":
        return replace(found, mode=Mode.FLUSH, flush=(value[1:],))
    if value[:1] == "R":
        return replace(found, mode=Mode.FLUSH, flush=("--site", value[1:]))
    return found if value else replace(found, mode=Mode.FLUSH)


def _dsn(found: Options, letter: str, value: str) -> Options:
    """-N, -R, -V (RFC 3461) and -B (RFC 6152), checked."""
    if letter == "V":
        if not value or len(value) > 100 or not (value.isascii() and value.isprintable()):
            raise UsageError("-V: expected at most 100 printable ASCII characters")
        return replace(found, envid=value)
    upper = value.upper()
    if letter == "N":
        words = upper.split(",")
        good = upper == "NEVER" or set(words) <= {"SUCCESS", "FAILURE", "DELAY"}
        return replace(found, notify=_checked("-N", value, upper, good))
    if letter == "R":
        return replace(found, ret=_checked("-R", value, upper, upper in ("FULL", "HDRS")))
    good = upper in ("7BIT", "8BITMIME")
    return replace(found, body=_checked("-B", value, upper, good))


def _checked(option: str, value: str, upper: str, good: bool) -> str:
    if not good:
        raise UsageError(f"{option}: {value!r} is not known")
    return upper
