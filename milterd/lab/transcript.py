"""A tape for a reader: one line, or one JSON object, for each record as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from milterd.base.escaping import escape
from milterd.lab.tape import Closed, Note, Opened, Record, Said
from milterd.lab.wording import Fields, line, readable, told

_ROW = 16
_NOT_SAID = {"body", "replace body", "end of message"}
"""Packets whose octets stand in no field."""
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Told:
    """A record in words.  `octet`: where it begins in its side's stream.

    `octets` are those that no field shows.
    """

    seconds: float
    connection: int
    sender: str
    octet: int | None
    name: str
    fields: Fields
    octets: bytes = b""


def tell(records: Iterable[Record]) -> Iterator[Told]:
    """Every record in words; remembers no more than where open connections are."""
    places: dict[int, dict[str, int]] = {}
    for each in records:
        seconds, connection = each.at / 1_000_000, each.connection
        match each:
            case Opened():
                places[connection] = {"mta": 0, "milter": 0}
                yield Told(seconds, connection, "", None, "opened", {})
            case Closed():
                places[connection].pop(each.by, None)
                if each.final or not places[connection]:
                    del places[connection]
                yield Told(seconds, connection, each.by, None, _ending(each), {})
            case Note():
                words: Fields = {"text": escape(each.text)}
                yield Told(seconds, connection, "", None, "note", words)
            case Said():
                place = places[connection][each.side]
                places[connection][each.side] = place + len(each.octets)
                yield _said(each, seconds, place)


def _ending(closed: Closed) -> str:
    return "reset" if closed.reset else "cut" if closed.by == "recorder" else "closed"


def _said(each: Said, seconds: float, place: int) -> Told:
    if not each.whole:
        fields: Fields = {"octets": len(each.octets), "begin": readable(each.octets[:_SHOWN])}
        return Told(seconds, each.connection, each.side, place, "no packet", fields, each.octets)
    name, fields = told(each.side, each.octets)
    octets = each.octets[5:] if name in _NOT_SAID else b""
    if name == "unreadable":
        octets = each.octets
    return Told(seconds, each.connection, each.side, place, name, fields, octets)


def as_line(each: Told) -> str:
    """`seconds connection direction [octet] what`."""
    arrow = {"mta": "->", "milter": "<-"}.get(each.sender, "--")
    place = "" if each.octet is None else f"@{each.octet}"
    who = f"{each.sender} " if each.octet is None and each.sender else ""
    words = f"{who}{each.name} {line(each.fields)}".rstrip()
    return f"{each.seconds:12.6f} {each.connection:4} {arrow} {place:>8} {words}"


def as_values(each: Told, raw: bool) -> dict[str, object]:
    """For a program; `raw` adds the octets that no field shows, as hexadecimal digits."""
    found: dict[str, object] = {"seconds": each.seconds, "connection": each.connection}
    if each.sender:
        found["from"] = each.sender
    if each.octet is not None:
        found["octet"] = each.octet
    found |= {"event": each.name, "fields": each.fields}
    return found | ({"hex": each.octets.hex()} if raw and each.octets else {})


def dump(octets: bytes) -> Iterator[str]:
    """Octets as offsets, hexadecimal digits and characters."""
    for at in range(0, len(octets), _ROW):
        row = octets[at : at + _ROW]
        text = "".join(chr(each) if 32 <= each < 127 else "." for each in row)
        yield f"{at:24x}  {row.hex(' '):{_ROW * 3}} {text}"
