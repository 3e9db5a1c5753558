"""Reading what comes after `expect`."""

from __future__ import annotations

import re
from collections.abc import Callable

from milterd.base.near import nearest
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.values import code, flags, number, octet_words, seconds
from milterd.lab.scenario.words import LineError, Words, shown
from milterd.wire.constants import Actions, Protocol

_CODE = re.compile(r"[45][0-9x]{2}")
_ENHANCED = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}")


def parse_expect(words: Words) -> s.Wish:
    """The wish that the rest of the line is; LineError for anything else."""
    word = words.keyword("what is expected")
    if word in s.ANSWERS or "|" in word:
        return s.AnswerIs(_answers(word))
    read = _WISHES.get(word)
    if read is None:
        known = (*s.ANSWERS, *_WISHES)
        close = nearest(word, known)
        hint = f", perhaps {close}" if close else ""
        raise LineError(f"nothing to expect is called {shown(word.encode())}{hint}")
    return read(words)


def _answers(word: str) -> tuple[str, ...]:
    names = tuple(word.split("|"))
    for each in names:
        if each not in s.ANSWERS:
            known = ", ".join(s.ANSWERS)
            raise LineError(f"expected one of {known}, found {shown(each.encode())}")
    return names


def _reply(words: Words) -> s.Wish:
    found = words.keyword("a code such as 550 or 5xx")
    if not _CODE.fullmatch(found):
        raise LineError(f"expected a code such as 550 or 5xx, found {shown(found.encode())}")
    enhanced = ""
    match = _ENHANCED.match(words.peek())
    if match is not None and words.peek()[match.end() :][:1].strip() == b"":
        enhanced = words.octets("an enhanced code").decode("ascii")
    return s.ReplyIs(found, enhanced, words.text(words.rest) if words.more() else None)


def _edit(words: Words, absent: bool = False) -> s.EditIs:
    kind = words.keyword("an edit")
    if kind not in s.EDITS:
        close = nearest(kind, s.EDITS)
        hint = f", perhaps {close}" if close else ""
        known = ", ".join(s.EDITS)
        raise LineError(f"expected one of {known}, found {shown(kind.encode())}{hint}")
    if kind in s.HEADER_EDITS:
        return _header_edit(kind, words, absent)
    if kind in s.ADDRESS_EDITS:
        return _address_edit(kind, words, absent)
    value = None
    if words.more():
        value = words.text(words.rest if kind == "quarantine" else lambda: _one(words))
    return s.EditIs(kind, value=value, absent=absent)


def _one(words: Words) -> bytes:
    found = words.take('"TEXT" or /EXPRESSION/')
    if not found.quoted:
        raise LineError(f'expected "TEXT" or /EXPRESSION/, found {shown(found.octets)}')
    return found.octets


def _header_edit(kind: str, words: Words, absent: bool) -> s.EditIs:
    index = None
    if kind in s.INDEXED_EDITS and re.match(rb"[0-9]+(?=[ \t]|\Z)", words.peek()):
        index = number(words, "an index")
    if not words.more():
        return s.EditIs(kind, index, absent=absent)
    if words.peek().startswith(b"/"):
        raise LineError("expected the name of a field before an expression")
    name, colon = words.until_colon()
    if not name:
        raise LineError("expected the name of a field")
    value: s.Text | None = None
    if colon and kind != "delete-header":
        value = words.text(words.rest_as_it_is)
    return s.EditIs(kind, index, name, value, absent=absent)


def _address_edit(kind: str, words: Words, absent: bool) -> s.EditIs:
    if not words.more():
        return s.EditIs(kind, absent=absent)
    address = words.octets("an address")
    if address.startswith(b"<") and address.endswith(b">"):
        address = address[1:-1]
    args = []
    while words.more():
        args.append(words.octets("an ESMTP argument"))
    return s.EditIs(kind, name=address, args=tuple(args) or None, absent=absent)


def _no(words: Words) -> s.Wish:
    word = words.keyword("edit, other edit, answer or violation")
    if word == "other":
        if words.keyword("edit") != "edit":
            raise LineError("expected edit after no other")
        return s.NoEdit(other=True)
    if word == "edit":
        return _edit(words, absent=True) if words.more() else s.NoEdit()
    if word == "answer":
        return s.NoAnswer()
    if word == "violation":
        return s.Violation(_maybe_pattern(words), absent=True)
    raise LineError(f"expected edit, other edit, answer or violation, found {shown(word.encode())}")


def _maybe_pattern(words: Words) -> s.Pattern | None:
    if not words.more():
        return None
    if not words.peek().startswith(b"/"):
        raise LineError(f"expected /EXPRESSION/, found {shown(words.peek())}")
    return words.pattern()


def _packet(words: Words) -> s.Wish:
    letter = code(words)
    if not words.more():
        return s.PacketIs(letter)
    return s.PacketIs(letter, words.text(lambda: b"".join(octet_words(words))))


def _flags_are(field: str, kind: type[Actions] | type[Protocol]) -> Callable[[Words], s.Wish]:
    def read(words: Words) -> s.Wish:
        found: dict[str, int] = {}
        while words.more() or not found:
            word = words.keyword("a flag, a number, all or none")
            sign = word[:1] if word[:1] in ("+", "-") else ""
            found[sign] = found.get(sign, 0) | flags(kind, word.removeprefix(sign))
        if "" in found and len(found) > 1:
            raise LineError("expected + or - before each flag, or before none")
        return s.FlagsAre(field, found.get(""), found.get("+", 0), found.get("-", 0))

    return read


def _macros(words: Words) -> s.Wish:
    word = words.keyword("a stage")
    stage = s.STAGES.get(word)
    if stage is None:
        raise LineError(f"expected one of {', '.join(s.STAGES)}, found {shown(word.encode())}")
    if words.peek() == b"default":
        words.raw_rest()
        return s.MacrosAre(stage, None)
    names = []
    while words.more():
        names.append(words.octets("the name of a macro"))
    return s.MacrosAre(stage, tuple(names))


_WISHES: dict[str, Callable[[Words], s.Wish]] = {
    "reply": _reply,
    "edit": _edit,
    "no": _no,
    "nothing": lambda _: s.Nothing(),
    "progress": lambda _: s.ProgressCame(),
    "silence": lambda words: s.Silence(seconds(words)),
    "close": lambda _: s.Closed(),
    "broken": lambda words: s.Broken(_maybe_pattern(words)),
    "violation": lambda words: s.Violation(_maybe_pattern(words)),
    "packet": _packet,
    "version": lambda words: s.VersionIs(number(words, "a version")),
    "actions": _flags_are("actions", Actions),
    "protocol": _flags_are("protocol", Protocol),
    "macros": _macros,
}
