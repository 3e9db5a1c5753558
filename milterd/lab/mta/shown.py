"""What a milter is shown of the message, and what arrives of one that nobody edits."""

from __future__ import annotations

from milterd.core.mail import parse_message
from milterd.lab.conform.check import Check
from milterd.lab.mta.check import Trial, joined, require, sound
from milterd.lab.server import Heard, Plan, Terms
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, Protocol

_HEADER = "libmilter, xxfi_header"
_BODY = "libmilter, xxfi_body"
_POSTFIX = "Postfix MILTER_README"

_ODD = [
    b"X-None:no space",
    b"X-Two:  two spaces",
    b"X-Tab:\ta tab",
    b"X-Folded: one\r\n\ttwo\r\n   three",
    b"X-Empty:",
    b"X-End: blanks at the end  ",
    b"X-Eight: gr\xfc\xdfe \xe2\x82\xac",
    b"x-lower: case",
]
BIG = b"".join(b"%06d %b\r\n" % (number, b"." * 60) for number in range(3000))


async def _content(trial: Trial, message: bytes, protocol: Protocol = Protocol.NONE) -> Heard:
    async with trial.session(Plan(terms=Terms(protocol=protocol))) as session:
        told = await session.send(message, mail_args=b" BODY=8BITMIME")
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    return heard


def _fields(heard: Heard) -> list[tuple[bytes, bytes]]:
    return [(each.name, each.value) for each in heard.events if isinstance(each, m.Header)]


def _body(heard: Heard) -> bytes:
    pieces = (each for each in heard.events if isinstance(each, m.BodyChunk | m.EndOfMessage))
    return b"".join(each.octets for each in pieces)


def _same(found: list[tuple[bytes, bytes]], wanted: list[tuple[bytes, bytes]]) -> None:
    for got, want in zip(found, wanted, strict=False):
        require(got == want, f"{want[0].decode()} is shown as {got[1]!r}, not {want[1]!r}")
    require(len(found) == len(wanted), f"{len(found)} fields, not {len(wanted)}")


async def _exact(trial: Trial) -> str:
    fields = [*trial.fields, *_ODD]
    heard = await _content(trial, joined(fields, trial.body), Protocol.HDR_LEADSPC)
    wanted = []
    for each in fields:
        name, _, value = each.partition(b":")
        wanted.append((name, value.replace(b"\r\n", b"\n")))
    _same(_fields(heard), wanted)
    return f"{len(wanted)} fields, spaces, folds (as LF) and 8-bit octets kept"


async def _without_space(trial: Trial) -> str:
    fields = [*trial.fields, *_ODD]
    heard = await _content(trial, joined(fields, trial.body))
    wanted = []
    for each in fields:
        name, _, value = each.partition(b":")
        wanted.append((name, value.removeprefix(b" ").replace(b"\r\n", b"\n")))
    _same(_fields(heard), wanted)
    return f"{len(wanted)} fields, one space less"


async def _own_trace(trial: Trial) -> str:
    heard = await _content(trial, trial.message())
    first = _fields(heard)[:1]
    received = [value for name, value in _fields(heard) if name.lower() == b"received"]
    require(len(received) == 1, f"{len(received)} Received fields where the client sent one")
    require(first and first[0][1] == received[0], "the client's Received is not the first field")
    return "the client's Received alone, first"


async def _body_exact(trial: Trial) -> str:
    body = b"8-bit gr\xfc\xdfe\r\n.dot\r\n..two\r\n\r\n  blanks  \r\nTAB\there\r\n" + trial.body
    shown = _body(await _content(trial, joined(trial.fields, body)))
    require(shown == body, "other octets than were sent")
    return f"{len(body)} octets as sent, CRLF and all"


async def _pieces(trial: Trial) -> str:
    heard = await _content(trial, joined(trial.fields, BIG))
    sizes = [len(each.octets) for each in heard.events if isinstance(each, m.BodyChunk)]
    require(max(sizes, default=0) <= CHUNK, f"a piece of {max(sizes, default=0)} octets")
    require(_body(heard) == BIG, "the pieces are not the body")
    return f"{len(BIG)} octets, no piece over {CHUNK}"


async def _empty(trial: Trial) -> str:
    heard = await _content(trial, joined(trial.fields, b""))
    require(not _body(heard), f"a body of {len(_body(heard))} octets")
    return "no body octet"


async def _untouched(trial: Trial) -> str:
    fields, body = [*trial.fields, *_ODD], b"gr\xfc\xdfe\r\n..dots\r\n" + trial.body
    message = joined(fields, body)
    await _content(trial, message)
    mail = await trial.delivered_once()
    require(mail.octets.endswith(message), _first_difference(mail.octets, message))
    above = parse_message(mail.octets[: -len(message)]).headers
    names = sorted({each.name.decode("latin-1") for each in above})
    return f"octet for octet below the MTA's own {', '.join(names)}"


def _first_difference(found: bytes, message: bytes) -> str:
    for line in message.split(b"\r\n"):
        if line not in found:
            return f"the line {line[:60]!r} did not arrive"
    return "other octets arrived than were sent"


CHECKS = (
    Check(
        "header/exact",
        "Header values with HDR_LEADSPC",
        "Every octet after the colon; a fold is LF and what follows it.",
        f"{_HEADER}; SMFIP_HDR_LEADSPC",
        _exact,
    ),
    Check(
        "header/without-space",
        "Header values without HDR_LEADSPC",
        "One space after the colon is left out, and nothing else.",
        f"{_HEADER}; SMFIP_HDR_LEADSPC",
        _without_space,
    ),
    Check(
        "header/own-trace",
        "The MTA's own Received",
        "It is hidden from the milter; those the client sent are not.",
        _POSTFIX,
        _own_trace,
    ),
    Check(
        "body/exact",
        "The body",
        "As it was sent: CRLF line ends, dots and 8-bit octets.",
        _BODY,
        _body_exact,
    ),
    Check(
        "body/pieces",
        "A body of 200 kB",
        "Pieces of 65535 octets at most, which together are the body.",
        f"{_BODY}; MILTER_CHUNK_SIZE",
        _pieces,
    ),
    Check("body/empty", "No body", "No octet of body is shown.", _BODY, _empty),
    Check(
        "delivery/untouched",
        "A mail that nobody edits",
        "It leaves as it came, to the octet, below what the MTA adds on top.",
        "RFC 5321 section 6.4; RFC 6152",
        _untouched,
    ),
)
