"""Headers and bodies of every kind, and how a body may be cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from milterd.core.mail import BytesBody, HeaderField, Mail, body_octets
from milterd.lab.conform.check import Check, fail, not_applicable
from milterd.lab.conform.context import Context
from milterd.lab.conform.talk import Talk
from milterd.lab.link import Fault, MilterError
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK
from milterd.wire.errors import PeerError

_RULE = (
    "Such mail comes; the milter answers by its policy, and neither loses the connection nor "
    "defers what it would let pass otherwise: the next try would be no other."
)
_SOON = 1.0
"""Seconds after which an answer that no MTA waits for is taken as one that never comes."""
_PIECES_RULE = "A body is the same in whatever pieces it comes, and judged the same."


def _field(name: str, title: str, source: str, *fields: HeaderField) -> Check:
    def change(mail: Mail) -> Mail:
        return mail.with_headers((*mail.headers, *fields))

    return _mail(name, title, source, change)


def _mail(name: str, title: str, source: str, change: Callable[[Mail], Mail]) -> Check:
    async def run(context: Context) -> str:
        judged = await context.judged(change(context.mail))
        return await context.expect_alive(judged)

    return Check(f"header/{name}", title, _RULE, source, run)


def _body(name: str, title: str, source: str, chunks: Sequence[bytes]) -> Check:
    async def run(context: Context) -> str:
        mail = replace(context.mail, body=BytesBody(b"".join(chunks)))
        async with context.connected() as talk:
            await talk.open()
            judged = await talk.message(mail, chunks=chunks)
            await talk.quit()
        return await context.expect_alive(judged)

    return Check(f"body/{name}", title, _RULE, source, run)


def _cut(name: str, title: str, cut: Callable[[bytes], Sequence[bytes]]) -> Check:
    """The plain mail's own body in other pieces."""

    async def run(context: Context) -> str:
        chunks = cut(body_octets(context.mail.body))
        async with context.connected() as talk:
            await talk.open()
            judged = await talk.message(chunks=chunks)
            await context.expect_same(judged, when=f"in {len(chunks)} pieces")
            await talk.quit()
        return f"{len(chunks)} pieces: {judged}"

    source = "libmilter docs, xxfi_body: called zero or more times"
    return Check(f"body/{name}", title, _PIECES_RULE, source, run)


def _octets(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(min(len(body), 300))] + _rest(body, 300)


def _rest(body: bytes, start: int) -> list[bytes]:
    return [body[start : start + CHUNK]] * (start < len(body)) + (
        _rest(body, start + CHUNK) if start + CHUNK < len(body) else []
    )


def _line_ends(body: bytes) -> list[bytes]:
    """Cut between CR and LF, for the first lines."""
    parts = body.split(b"\r\n", 100)
    pieces = [parts[0] + b"\r"] + [b"\n" + each + b"\r" for each in parts[1:-1]]
    return [*pieces, *_rest(b"\n" + parts[-1], 0)] if len(parts) > 1 else _rest(body, 0)


# --- what libmilter has limits for --------------------------------------------------------


def _sized_header(payload: int) -> HeaderField:
    """A field whose packet has a payload of that many octets, folded into short lines."""
    name = b"X-Long"
    # LF for each fold on the wire, the first space may be eaten: it is left out.
    octets = payload - len(name) - 2
    line = b"x" * 70 + b"\r\n "
    count, left = divmod(octets, len(line) - 1)
    return HeaderField(name, line * count + b"x" * left)


async def _over_64k(context: Context) -> str:
    mail = context.mail.with_headers((*context.mail.headers, _sized_header(CHUNK + 1)))
    try:
        judged = await context.judged(mail)
    except MilterError as error:
        if error.fault is not Fault.GONE:
            raise
        await context.serves()
        not_applicable("closes: libmilter takes no packet over 65,535 octets")
    return await context.expect_alive(judged)


async def _empty_chunk(context: Context) -> str:
    async with context.connected() as talk:
        await talk.open()
        try:
            judged = await talk.message(chunks=[b""])
        except MilterError as error:
            if error.fault is not Fault.GONE:
                raise
            await context.serves()
            not_applicable("closes, as libmilter does: no MTA sends an empty piece")
    return await context.expect_alive(judged)


async def _data_in_end(context: Context) -> str:
    async with context.connected() as talk:
        await talk.reach_open(m.EndOfHeaders)
        link, answer = talk.link, min(_SOON, context.options.answer)
        link.patience = replace(link.patience, answer=answer)
        try:
            await link.write(m.EndOfMessage(body_octets(context.mail.body)[:CHUNK]).encode())
            await _answer(talk)
        except MilterError as error:
            if error.fault is Fault.GONE:
                not_applicable("closes: no MTA sends body octets with the end of the message")
            if error.fault is Fault.SILENT and not talk.answers(m.BodyChunk):
                not_applicable("no answer, as with libmilter where NR_BODY is negotiated")
            raise
        await link.write(m.Quit().encode())
        rest = await talk.rest()
    if len(rest) == 1:
        not_applicable("answered twice, as libmilter does where the body has a verdict")
    if rest:
        fail(f"{len(rest)} more answers to the end of the message", "end of message")
    return "answered once"


async def _answer(talk: Talk) -> None:
    """Wait for what ends the message."""
    while (frame := await talk.link.frame()) is not None:
        try:
            reply = m.decode_reply(*frame)
        except PeerError as error:
            raise talk.link.broken(error) from error
        if not isinstance(reply, m.EditReply | m.Progress):
            return
    raise MilterError(Fault.GONE, "closed", talk.link.stage, talk.link.octet)


def _header_packet(name: str, title: str, payload: int) -> Check:
    source = "libmilter docs: a packet of at most 65,535 octets; Postfix header_size_limit"
    return _field(name, title, source, _sized_header(payload))


_WIRE = "libmilter engine.c, dec_arg2"
_LINES = b"".join(b"line %06d of a longer body\r\n" % each for each in range(40_000))
CHECKS: tuple[Check, ...] = (
    _mail(
        "none",
        "No header at all",
        "RFC 5321 section 3.3; NX_RCPT",
        lambda each: each.with_headers(()),
    ),
    _field("empty-value", "Fields without a value", _WIRE, *[HeaderField(b"X-Empty", b"")] * 2),
    _field("blank-value", "A field of spaces", _WIRE, HeaderField(b"X-Blank", b"   ")),
    _field("no-space", "No space after the colon", "HDR_LEADSPC", HeaderField(b"X-Tight", b"x")),
    _field(
        "utf-8", "8-bit values, UTF-8", "RFC 6532", HeaderField(b"X-Utf8", " grüße 漢字".encode())
    ),
    _field(
        "latin-1",
        "8-bit values that are no UTF-8",
        "Postfix strict_7bit_headers = no",
        HeaderField(b"X-Latin", b" gr\xfc\xdfe \xff\xfe\x80"),
        HeaderField(b"Subject", b" =?utf-8?q?" + b"\xe9" * 20),
    ),
    _field(
        "8bit-name",
        "An 8-bit field name",
        "Postfix smtpd takes it for a field",
        HeaderField("X-Grüße".encode(), b" x"),
    ),
    _field(
        "folded",
        "Folded values",
        "RFC 5322 section 2.2.3",
        HeaderField(b"X-Folded", b" one\r\n\ttwo\r\n   three\r\n \r\n four"),
        HeaderField(b"X-Begins", b"\r\n below"),
    ),
    _field(
        "control",
        "Control characters in a value",
        "RFC 5322 section 4.1",
        HeaderField(b"X-Control", b" a\x01\x07\x1b[31mb\x7f"),
    ),
    _field("long-name", "A field name of 1,000 octets", _WIRE, HeaderField(b"X" * 1000, b" x")),
    _field(
        "long-line", "A line of 10,000 octets", _WIRE, HeaderField(b"X-Line", b" " + b"x" * 10_000)
    ),
    _header_packet("packet-65535", "A field of 65,535 octets, the most there may be", CHUNK),
    Check(
        "header/packet-65536",
        "A field of one octet more than libmilter takes",
        "The milter answers, or closes and serves the next client.",
        "libmilter comm.c, mi_rd_cmd; Postfix header_size_limit is 102,400",
        _over_64k,
        weight=2,
    ),
    _field(
        "1000-fields",
        "1,000 fields",
        "Postfix header_size_limit; Sendmail MaxHeadersLength",
        *[HeaderField(b"X-Field-%d" % each, b" value") for each in range(1000)],
    ),
    _body("empty", "An empty body, no piece at all", "libmilter docs, xxfi_body", ()),
    Check(
        "body/empty-piece",
        "A piece of no octets",
        "The milter answers, or closes and serves the next client.",
        "libmilter engine.c: a body packet must have octets",
        _empty_chunk,
    ),
    Check(
        "body/in-end-of-message",
        "Body octets in the end-of-message packet",
        "The octets are taken as the body's last, and answered once.",
        "libmilter engine.c, st_bodyend",
        _data_in_end,
    ),
    _cut("one-octet-pieces", "Pieces of one octet", _octets),
    _cut("cut-line-ends", "Pieces cut between CR and LF", _line_ends),
    _body("piece-65534", "A piece of 65,534 octets", "MILTER_CHUNK_SIZE", (_LINES[:65534],)),
    _body("piece-65535", "A piece of 65,535 octets", "MILTER_CHUNK_SIZE", (_LINES[:65535],)),
    _body(
        "many-pieces",
        "A body of a megabyte in the largest pieces",
        "MILTER_CHUNK_SIZE",
        tuple(_LINES[at : at + CHUNK] for at in range(0, len(_LINES), CHUNK)),
    ),
    _body("no-final-newline", "No line end at the end", "RFC 3030", (b"a line\r\nno end",)),
    _body(
        "bare-line-ends",
        "Bare CR and LF",
        "Postfix smtpd_forbid_bare_newline",
        (b"a\nb\rc\r\r\nd\n\r",),
    ),
    _body("nul", "NUL octets", "RFC 3030 BINARYMIME", (b"a\0b\r\n\0\0\r\n",)),
    _body("all-octets", "Every octet there is", "RFC 6152", (bytes(range(256)) * 8 + b"\r\n",)),
    _body(
        "long-line", "A line of 100,000 octets", "Postfix line_length_limit", (b"x" * 50_000,) * 2
    ),
    _body("dots", "Lines of dots", "RFC 5321 section 4.5.2", (b".\r\n..\r\n.x\r\n.\r\n",)),
)
