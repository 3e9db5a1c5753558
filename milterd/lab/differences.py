"""What a milter answered against what it once did: replies, edits, negotiations.

Edits are compared as a list: what is missing, what came in addition, and what has changed
(the same edit of the same field or kind, another value).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import regex  # type: ignore[import-untyped]  # it carries no type information

from milterd.lab.wording import Fields, decoded, fields_of, line, name_of, readable
from milterd.wire import messages as m
from milterd.wire.errors import PeerError
from milterd.wire.states import EDIT_ACTIONS

_PATIENCE = 1.0
"""Seconds of CPU one mask may take on one value."""
_MASKED = b"*"


class MaskError(Exception):
    """A mask cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Mask:
    """What to take for equal: all that `pattern` finds in the values of a header field, or,
    with the name `*`, in any value, reply text and reason."""

    name: bytes
    pattern: regex.Pattern[bytes]

    @classmethod
    def of(cls, text: str) -> Mask:
        """From NAME:REGEX.  Raises MaskError."""
        name, colon, pattern = text.partition(":")
        if not colon or not name or not pattern:
            raise MaskError(f"{text!r} is not NAME:REGEX")
        try:
            return cls(name.lower().encode(), regex.compile(pattern.encode(), regex.VERSION0))
        except regex.error as error:
            raise MaskError(f"{text!r}: {error}") from None

    def apply(self, name: bytes, value: bytes) -> bytes:
        """The value with what is not compared taken out.  MaskError if that takes too long."""
        if self.name not in (b"*", name.lower()):
            return value
        try:
            found: bytes = self.pattern.sub(_MASKED, value, timeout=_PATIENCE)
        except TimeoutError:
            text = self.pattern.pattern.decode("utf-8", "backslashreplace")
            raise MaskError(f"{text!r} takes more than {_PATIENCE:g} s on one value") from None
        return found


@dataclass(frozen=True, slots=True)
class Rules:
    """How to compare.  `ignored`: header names in lower case, edits of which do not count.
    `seen_as`: done to what is seen before it is compared, where the tape was blanked."""

    masks: tuple[Mask, ...] = ()
    ignored: frozenset[bytes] = frozenset()
    seen_as: Callable[[bytes], bytes] | None = None

    def masked(self, name: bytes, value: bytes) -> bytes:
        """A value without what the masks take out."""
        for each in self.masks:
            value = each.apply(name, value)
        return value


@dataclass(frozen=True, slots=True)
class Difference:
    """`what`: negotiation, reply, edit missing, edit added, edit changed, connection or rest.

    `expected` and `seen` are in words, None where there is nothing.  `message` counts from
    1 within the connection; 0 is before the first.
    """

    connection: int
    message: int
    event: str
    what: str
    expected: str | None = None
    seen: str | None = None


Found = tuple[str, str | None, str | None]
"""What, expected, seen."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A reply or an edit: what counts of it, what tells its kind, and its words."""

    key: tuple[object, ...]
    kind: tuple[object, ...]
    words: str
    body: bytes | None = None


def compare(expected: Sequence[bytes], seen: Sequence[bytes], rules: Rules) -> Iterator[Found]:
    """The differences between two answers, each a milter's packets in their order."""
    if rules.seen_as is not None:
        seen = [rules.seen_as(each) for each in seen]
    was_edits, was = _parts(expected, rules)
    is_edits, now = _parts(seen, rules)
    yield from _edits(was_edits, is_edits)
    if [each.key for each in was] != [each.key for each in now]:
        yield "reply", _join(was), _join(now)


def _join(parts: list[_Part]) -> str:
    return ", ".join(each.words for each in parts) or "no answer"


def _parts(packets: Sequence[bytes], rules: Rules) -> tuple[list[_Part], list[_Part]]:
    """The edits, and the rest; signs of life are neither."""
    edits: list[_Part] = []
    rest: list[_Part] = []
    body: list[bytes] = []
    for each in packets:
        try:
            message = decoded("milter", each)
        except PeerError as error:
            words = f"unreadable packet {readable(each[4:64])}: {error.reason}"
            rest.append(_Part(("unreadable", each), ("unreadable",), words))
            continue
        if isinstance(message, m.ReplaceBodyChunk):
            if not body:
                edits.append(_body(body))
            body.append(message.octets)
        elif type(message) in EDIT_ACTIONS:
            if _field_name(message).lower() not in rules.ignored:
                edits.append(_part(message, rules))
        elif not isinstance(message, m.Progress):
            rest.append(_part(message, rules))
    if body:
        edits = [_body(body) if each.kind == _BODY else each for each in edits]
    return edits, rest


_BODY = ("replace body",)


def _body(pieces: list[bytes]) -> _Part:
    octets = b"".join(pieces)
    return _Part((*_BODY, octets), _BODY, f"replace body octets={len(octets)}", octets)


def _field_name(message: m.CommandMessage | m.Reply) -> bytes:
    if isinstance(message, m.AddHeaderReply | m.InsertHeaderReply | m.ChangeHeaderReply):
        return message.name
    return b""


def _part(message: m.CommandMessage | m.Reply, rules: Rules) -> _Part:
    name = name_of(message)
    words = f"{name} {line(fields_of(message))}".rstrip()
    key: tuple[object, ...] = (message,)
    match message:
        case m.AddHeaderReply():
            key = (message.name, rules.masked(message.name, message.value))
        case m.InsertHeaderReply() | m.ChangeHeaderReply():
            key = (message.index, message.name, rules.masked(message.name, message.value))
        case m.ReplyCode():
            key = (rules.masked(b"", message.text),)
        case m.QuarantineReply():
            key = (rules.masked(b"", message.reason),)
        case m.Negotiate():
            # A dictionary's order is no matter, nor hashed.
            key = (message.version, message.actions, message.protocol, dict(message.macros))
    return _Part((name, *key), (name, _field_name(message).lower()), words)


def _edits(was: list[_Part], now: list[_Part]) -> Iterator[Found]:
    numbers: list[tuple[object, ...]] = []
    matcher = SequenceMatcher(None, _numbered(was, numbers), _numbered(now, numbers), False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield from _pair(was[a:b], now[c:d])


def _numbered(parts: list[_Part], known: list[tuple[object, ...]]) -> list[int]:
    """Equal keys as equal numbers: the matcher wants what can be hashed."""
    for each in parts:
        if each.key not in known:
            known.append(each.key)
    return [known.index(each.key) for each in parts]


def _pair(missing: list[_Part], added: list[_Part]) -> Iterator[Found]:
    """Of what stands in the same place, the same kind of the same field has changed."""
    left = list(added)
    for was in missing:
        match = next((each for each in left if each.kind == was.kind), None)
        if match is None:
            yield "edit missing", was.words, None
            continue
        left.remove(match)
        yield "edit changed", was.words, match.words + _where(was.body, match.body)
    for each in left:
        yield "edit added", None, each.words


def _where(was: bytes | None, now: bytes | None) -> str:
    """Where two bodies part."""
    if was is None or now is None:
        return ""
    pairs = enumerate(zip(was, now, strict=False))
    at = next((at for at, (one, two) in pairs if one != two), min(len(was), len(now)))
    return f" (differs from octet {at})"


def negotiated(expected: m.Negotiate, seen: m.Negotiate) -> Iterator[Found]:
    """Each part of a negotiation that differs, for itself."""
    was, now = fields_of(expected), fields_of(seen)
    for name in (*was, *(each for each in now if each not in was)):
        if was.get(name) != now.get(name):
            yield "negotiation", _one(name, was), _one(name, now)


def _one(name: str, fields: Fields) -> str | None:
    return line({name: fields[name]}) if name in fields else None


def as_lines(each: Difference) -> Iterator[str]:
    """For a reader: where, then what was expected (-) and what was seen (+)."""
    where = f"connection {each.connection}"
    if each.message:
        where += f", message {each.message}"
    yield f"{where}, {each.event}: {each.what}"
    if each.expected is not None:
        yield f"  - {each.expected}"
    if each.seen is not None:
        yield f"  + {each.seen}"


def as_values(each: Difference) -> dict[str, object]:
    """For a program."""
    return {
        "connection": each.connection,
        "message": each.message,
        "event": each.event,
        "what": each.what,
        "expected": each.expected,
        "seen": each.seen,
    }
