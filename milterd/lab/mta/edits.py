"""Edits of header and body at end of message, as they arrive at the next hop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from milterd.core.mail import parse_message
from milterd.lab.conform.check import Check
from milterd.lab.mta.check import Trial, require, sound
from milterd.lab.server import Plan, Step, Terms
from milterd.lab.sink import Delivered
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, Protocol

TRACE = b"(the MTA's own Received)"
_ADDED = (b"return-path", b"delivered-to", b"x-original-to")
"""Fields that a delivery may put on top."""
Fields = list[bytes]
Change = Callable[[Fields], Fields]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A delivered mail, taken apart; the MTA's own Received is `TRACE`."""

    fields: Fields
    body: bytes
    mail: Delivered


def taken_apart(trial: Trial, mail: Delivered) -> Arrived:
    """The mail's fields and body, without what a delivery puts on top."""
    parsed = parse_message(mail.octets)
    fields = [each.raw for each in parsed.headers if each.name.lower() not in _ADDED]
    own = [at for at, each in enumerate(fields) if _is_trace(trial, each)]
    if own:
        fields[own[0]] = TRACE
    return Arrived(fields, b"".join(parsed.body.pieces()), mail)


def _is_trace(trial: Trial, field: bytes) -> bool:
    return field.lower().startswith(b"received:") and trial.helo.lower() in field.lower()


async def edited(
    trial: Trial, steps: Sequence[Step], protocol: Protocol = Protocol.NONE, recipients: int = 1
) -> list[Arrived]:
    """The ordinary mail with these edits, as it arrives."""
    plan = Plan({m.EndOfMessage: [*steps, m.Continue()]}, Terms(protocol=protocol))
    told, heard = await trial.send(plan)
    sound(heard)
    require(told.taken, str(told))
    return [taken_apart(trial, each) for each in await trial.delivered(recipients)]


async def edited_once(
    trial: Trial, steps: Sequence[Step], protocol: Protocol = Protocol.NONE
) -> Arrived:
    """The same, for the one recipient it was sent to."""
    found = await edited(trial, steps, protocol)
    require(len(found) == 1, f"delivered {len(found)} times")
    return found[0]


def _header(
    name: str, title: str, rule: str, steps: Sequence[Step], change: Change, space: bool = False
) -> Check:
    async def run(trial: Trial) -> str:
        protocol = Protocol.HDR_LEADSPC if space else Protocol.NONE
        found = await edited_once(trial, steps, protocol)
        compare_fields(found.fields, change([TRACE, *trial.fields]))
        require(found.body == trial.body, "the body changed too")
        return "as asked, all else untouched"

    return Check(f"edit/{name}", title, rule, _SOURCES[type(steps[0])], run)


_SOURCES: dict[type, str] = {
    m.AddHeaderReply: "libmilter, smfi_addheader",
    m.InsertHeaderReply: "libmilter, smfi_insheader",
    m.ChangeHeaderReply: "libmilter, smfi_chgheader",
    m.ReplaceBodyChunk: "libmilter, smfi_replacebody",
}


def compare_fields(found: Fields, wanted: Fields) -> None:
    """Fail with the first field that is not as wanted."""
    for number, (got, want) in enumerate(zip(found, wanted, strict=False)):
        require(got == want, f"field {number} is {got[:60]!r}, not {want[:60]!r}")
    require(len(found) == len(wanted), f"{len(found)} fields, not {len(wanted)}")


def _put(at: int, field: bytes) -> Change:
    return lambda fields: [*fields[:at], field, *fields[at:]]


def _swap(old: bytes, new: bytes | None) -> Change:
    return lambda fields: [
        (each if each != old else new)  # type: ignore[misc] # None is left out below
        for each in fields
        if each != old or new is not None
    ]


def _end(*more: bytes) -> Change:
    return lambda fields: [*fields, *more]


_ONE, _TWO, _THREE = b"X-Multi: one", b"x-multi: two", b"X-Multi: three"
_MANY = 300

HEADERS = (
    _header(
        "add",
        "Add a field",
        "It is appended to the header.",
        [m.AddHeaderReply(b"X-New", b"value")],
        _end(b"X-New: value"),
    ),
    _header(
        "add-folded",
        "Add a folded field",
        "LF within the value is a fold.",
        [m.AddHeaderReply(b"X-New", b"one\n\ttwo\n three")],
        _end(b"X-New: one\r\n\ttwo\r\n three"),
    ),
    _header(
        "add-eight-bit",
        "Add an 8-bit field",
        "Octets over 127 are kept.",
        [m.AddHeaderReply(b"X-New", b"gr\xc3\xbc\xc3\x9fe")],
        _end(b"X-New: gr\xc3\xbc\xc3\x9fe"),
    ),
    _header(
        "add-leading-space",
        "Add fields under HDR_LEADSPC",
        "The value begins right after the colon.",
        [m.AddHeaderReply(b"X-Two", b"  two"), m.AddHeaderReply(b"X-None", b"none")],
        _end(b"X-Two:  two", b"X-None:none"),
        space=True,
    ),
    _header(
        "add-twice",
        "Add two fields of one name",
        "Both are there, in their order.",
        [m.AddHeaderReply(b"X-New", b"a"), m.AddHeaderReply(b"X-New", b"b")],
        _end(b"X-New: a", b"X-New: b"),
    ),
    _header(
        "insert-0",
        "Insert at 0",
        "It is the first field, above the MTA's own Received.",
        [m.InsertHeaderReply(0, b"X-Top", b"top")],
        _put(0, b"X-Top: top"),
    ),
    _header(
        "insert-1",
        "Insert at 1",
        "The MTA's own Received counts: it comes below that.",
        [m.InsertHeaderReply(1, b"X-One", b"one")],
        _put(1, b"X-One: one"),
    ),
    _header(
        "insert-4",
        "Insert in the middle",
        "The index counts all fields, the MTA's own among them.",
        [m.InsertHeaderReply(4, b"X-Mid", b"mid")],
        _put(4, b"X-Mid: mid"),
    ),
    _header(
        "insert-far",
        "Insert at 1000",
        "An index beyond the end appends.",
        [m.InsertHeaderReply(1000, b"X-Far", b"far")],
        _end(b"X-Far: far"),
    ),
    _header(
        "insert-twice",
        "Insert twice at 1",
        "The later one stands above the earlier.",
        [m.InsertHeaderReply(1, b"X-A", b"a"), m.InsertHeaderReply(1, b"X-B", b"b")],
        lambda fields: [fields[0], b"X-B: b", b"X-A: a", *fields[1:]],
    ),
    _header(
        "change-1",
        "Change the first of three",
        "Only the first of that name.",
        [m.ChangeHeaderReply(1, b"X-Multi", b"new")],
        _swap(_ONE, b"X-Multi: new"),
    ),
    _header(
        "change-2",
        "Change the second of three",
        "Names are compared without regard to case.",
        [m.ChangeHeaderReply(2, b"x-multi", b"new\n\tfolded")],
        _swap(_TWO, b"x-multi: new\r\n\tfolded"),
    ),
    _header(
        "change-0",
        "Change the field at 0",
        "0 means the first.",
        [m.ChangeHeaderReply(0, b"X-Multi", b"new")],
        _swap(_ONE, b"X-Multi: new"),
    ),
    _header(
        "change-missing",
        "Change the fourth of three",
        "A field that is not there is appended.",
        [m.ChangeHeaderReply(4, b"X-Multi", b"four")],
        _end(b"X-Multi: four"),
    ),
    _header(
        "change-unknown",
        "Change a field that is not there",
        "It is appended.",
        [m.ChangeHeaderReply(1, b"X-Unknown", b"new")],
        _end(b"X-Unknown: new"),
    ),
    _header(
        "change-added",
        "Change what was added",
        "An edit sees those before it.",
        [m.AddHeaderReply(b"X-New", b"old"), m.ChangeHeaderReply(1, b"X-New", b"new")],
        _end(b"X-New: new"),
    ),
    _header(
        "change-received",
        "Change the first Received",
        "The index does not count the MTA's own, which the milter never saw.",
        [m.ChangeHeaderReply(1, b"Received", b"changed")],
        lambda fields: [fields[0], b"Received: changed", *fields[2:]],
    ),
    _header(
        "delete",
        "Delete the second of three",
        "An empty value deletes.",
        [m.ChangeHeaderReply(2, b"x-multi", b"")],
        _swap(_TWO, None),
    ),
    _header(
        "delete-all",
        "Delete all three, from the last",
        "None is left.",
        [m.ChangeHeaderReply(each, b"X-Multi", b"") for each in (3, 2, 1)],
        lambda fields: [each for each in fields if each not in (_ONE, _TWO, _THREE)],
    ),
    _header(
        "delete-missing",
        "Delete what is not there",
        "Nothing happens.",
        [m.ChangeHeaderReply(1, b"X-Unknown", b"")],
        _end(),
    ),
    _header(
        "many",
        f"{_MANY} edits",
        "All of them are made.",
        [m.AddHeaderReply(b"X-%d" % each, b"value") for each in range(_MANY)],
        lambda fields: [*fields, *(b"X-%d: value" % each for each in range(_MANY))],
    ),
)

# --- body ---


def _body(name: str, title: str, rule: str, pieces: Sequence[bytes], wanted: bytes) -> Check:
    async def run(trial: Trial) -> str:
        found = await edited_once(trial, [m.ReplaceBodyChunk(each) for each in pieces])
        compare_fields(found.fields, [TRACE, *trial.fields])
        require(found.body == wanted, _difference(found.body, wanted))
        return f"{len(wanted)} octets of body, the header untouched"

    return Check(f"edit/{name}", title, rule, _SOURCES[m.ReplaceBodyChunk], run)


def _difference(found: bytes, wanted: bytes) -> str:
    if max(len(found), len(wanted)) < 80:
        return f"body {found!r}, not {wanted!r}"
    return f"a body of {len(found)} octets, not {len(wanted)}, or other octets"


_LINES = b"".join(b"line %d\r\n" % each for each in range(20000))

BODIES = (
    _body("body", "Replace the body", "The new body arrives.", [b"new\r\n.dot\r\n"],
          b"new\r\n.dot\r\n"),
    _body("body-pieces", "A new body in pieces", "They are joined.",
          [_LINES[at : at + CHUNK] for at in range(0, len(_LINES), CHUNK)], _LINES),
    _body("body-empty", "An empty new body", "The old body is gone.", [b""], b""),
    _body("body-split", "CR and LF in two pieces", "They are one line end.",
          [b"one\r", b"\ntwo\r\n"], b"one\r\ntwo\r\n"),
    _body("body-no-end", "A new body without a final line end", "It gets one.", [b"one\r\ntwo"],
          b"one\r\ntwo\r\n"),
)  # fmt: skip

CHECKS = (*HEADERS, *BODIES)
