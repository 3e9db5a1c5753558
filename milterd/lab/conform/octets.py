"""The stream itself: fragments, packets together, packets that are none."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from milterd.lab.conform.check import Check, NotApplicableError, fail
from milterd.lab.conform.context import CLOSES, Context, poked
from milterd.lab.conform.talk import Manner, Talk
from milterd.lab.link import Fault, MilterError
from milterd.wire import messages as m
from milterd.wire.constants import NEWEST_VERSION, Actions, Protocol
from milterd.wire.frames import frame
from milterd.wire.states import CommandType

_STREAM = "A stream has no packets but those the lengths make, however the octets arrive."
_RULE = (
    "What breaks the protocol is answered, ignored or ends the connection; nothing waits for "
    "ever, and the next client is served."
)
_LIMIT = "libmilter comm.c, mi_rd_cmd, and engine.c, mi_engine"
_MIB = 1024 * 1024
_GROWTH = 256 * _MIB
"""Octets by which a milter may grow for a packet that nobody sends."""


def _manner(name: str, title: str, manner: Manner) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            talk.manner = manner
            await talk.open()
            for _ in range(2):
                judged = await talk.message()
                await context.expect_same(judged)
            await talk.quit()
        return f"two messages: {judged}"

    return Check(f"stream/{name}", title, _STREAM, "libmilter comm.c, mi_rd_cmd", run, weight=2)


def _poke(name: str, title: str, after: CommandType | None, octets: bytes) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await _go_to(talk, after)
            said = await poked(context, talk, octets)
        await context.serves()
        return said

    return Check(name, title, _RULE, _LIMIT, run)


async def _go_to(talk: Talk, after: CommandType | None) -> None:
    """`after`: the last event before; m.Macros: not even a negotiation."""
    if after is m.Macros:
        return
    if after is None:
        await talk.negotiate()
    else:
        await talk.reach(after)


def _oversize(name: str, title: str, length: int) -> Check:
    """A packet whose length says more than there can be."""

    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await talk.reach(m.EndOfHeaders)
            before = _memory(context.pid)
            sent = await _pour(talk, length)
            grown = _memory(context.pid) - before
        if grown > _GROWTH:
            fail(f"grew by {grown // _MIB} MiB for it", "body")
        await context.serves()
        return f"closes after at most {sent // 1024} KiB of it"

    rule = (
        "A length that no packet can have ends the connection before the octets are gathered; "
        "the next client is served."
    )
    return Check(f"oversize/{name}", title, rule, _LIMIT, run)


async def _pour(talk: Talk, length: int) -> int:
    """Send the packet until the milter closes; how much of it that took."""
    sent, most = 0, 8 * _MIB
    try:
        await talk.link.write(length.to_bytes(4, "big") + b"B")
        while sent < most:
            await talk.link.write(bytes(65536))
            sent += 65536
        if await talk.link.frame() is not None:
            talk.fail(f"answers before the packet of {length} octets is whole")
    except MilterError as error:
        if error.fault is Fault.SILENT:
            waited = "takes" if sent == most else "neither takes nor refuses"
            talk.fail(f"{waited} {sent // 1024} KiB of a packet of {length} octets")
        if error.fault is not Fault.GONE:
            raise
    return sent


def _memory(pid: int | None) -> int:
    """The resident octets of a process; 0 where that cannot be known."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


async def _over_chunk(context: Context) -> str:
    """Larger than libmilter takes, but not than MDS_1M has."""
    async with context.connected() as talk:
        await talk.reach(m.EndOfHeaders)
        said = await poked(context, talk, frame(b"B", bytes(65536)))
    await context.serves()
    return said if said == CLOSES else f"{said} to 65,536 octets"


_NONSENSE: tuple[tuple[str, str, CommandType | None, bytes], ...] = (
    ("packet/zero-length", "A packet of length 0", None, bytes(4)),
    ("packet/unknown-command", "A command that does not exist", None, frame(b"?", b"x")),
    ("packet/reply-code", "A milter's reply, sent by an MTA", None, frame(b"c")),
    ("packet/not-milter", "SMTP instead", m.Macros, b"EHLO localhost\r\nQUIT\r\n"),
    ("packet/http", "HTTP instead", m.Macros, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("packet/connect-no-family", "CONNECT without a family", None, frame(b"C", b"host\0")),
    ("packet/connect-no-nul", "CONNECT without a NUL", None, frame(b"C", b"host")),
    (
        "packet/connect-bad-family",
        "CONNECT of a family that does not exist",
        None,
        frame(b"C", b"host\0X\0\x19127.0.0.1\0"),
    ),
    (
        "packet/connect-bad-address",
        "CONNECT with an address that is none",
        None,
        frame(b"C", b"host\0004\0\x19not an address\0"),
    ),
    ("packet/connect-no-port", "CONNECT without a port", None, frame(b"C", b"host\0004")),
    ("packet/helo-no-nul", "HELO without its NUL", m.Connect, frame(b"H", b"helo")),
    ("packet/helo-empty", "HELO of no octets", m.Connect, frame(b"H")),
    ("packet/mail-no-nul", "MAIL without its NUL", m.Helo, frame(b"M", b"<a@b>")),
    ("packet/mail-empty", "MAIL of no octets", m.Helo, frame(b"M")),
    ("packet/rcpt-no-nul", "RCPT without its NUL", m.MailFrom, frame(b"R", b"<a@b>")),
    ("packet/header-no-value", "A header without a value", m.RcptTo, frame(b"L", b"X\0")),
    ("packet/header-no-nul", "A header without its NUL", m.RcptTo, frame(b"L", b"X\0x")),
    ("packet/unknown-no-nul", "An unknown command without its NUL", m.Helo, frame(b"U", b"X")),
    ("packet/data-with-octets", "DATA with octets", m.RcptTo, frame(b"T", b"x")),
    ("order/mail-first", "MAIL before the negotiation", m.Macros, frame(b"M", b"<>\0")),
    ("order/macros-first", "Macros before the negotiation", m.Macros, frame(b"D", b"Cj\0x\0")),
    ("order/body-first", "A body before CONNECT", None, frame(b"B", b"x")),
    ("order/end-first", "End of message before CONNECT", None, frame(b"E")),
    ("order/end-before-mail", "End of message before MAIL", m.Helo, frame(b"E")),
    ("order/rcpt-before-mail", "RCPT before MAIL", m.Helo, frame(b"R", b"<a@b>\0")),
    ("order/header-before-mail", "A header before MAIL", m.Helo, frame(b"L", b"X\0x\0")),
    ("order/mail-twice", "MAIL in a message", m.BodyChunk, frame(b"M", b"<a@b>\0")),
    ("order/rcpt-in-body", "RCPT in the body", m.BodyChunk, frame(b"R", b"<a@b>\0")),
    ("order/connect-twice", "CONNECT in a message", m.RcptTo, frame(b"C", b"x\0U")),
    (
        "order/negotiation-twice",
        "Another negotiation in a message",
        m.RcptTo,
        m.Negotiate(NEWEST_VERSION, Actions.ALL, Protocol.ALL).encode(),
    ),
)
"""What breaks the protocol: id, title, the last event before, octets."""


async def _bystander(context: Context) -> str:
    for name, _, after, octets in _NONSENSE:
        async with context.connected() as beside:
            await beside.reach_open(m.RcptTo)
            async with context.connected() as talk:
                await _thrown(context, talk, after, octets)
            try:
                await beside.say(m.Abort())
                judged = await beside.message()
            except MilterError as error:
                fail(f"{name} ends another client's message: {error}", error.stage, error.octet)
        await context.expect_same(judged, when=f"beside {name}")
    return f"{len(_NONSENSE)} times {judged}"


async def _thrown(context: Context, talk: Talk, after: CommandType | None, octets: bytes) -> None:
    """Send what breaks the protocol, and be gone; what comes of it is another check's matter."""
    try:
        await _go_to(talk, after)
        await talk.link.write(octets)
        talk.link.end_of_file()
        async with asyncio.timeout(context.options.quiet):
            await talk.rest()
    except (MilterError, OSError, NotApplicableError):
        return  # TimeoutError is an OSError


_LONG = 0x7FFF_FFFF
CHECKS: tuple[Check, ...] = (
    _manner("fragments", "One octet a write", Manner.FRAGMENTS),
    _manner("coalesced", "All that needs no answer in one write", Manner.COALESCED),
    Check(
        "oversize/65536",
        "A body packet of 65,536 octets",
        "The milter answers, or closes; the next client is served.",
        _LIMIT,
        _over_chunk,
    ),
    _oversize("2-gib", "A packet of 2 GiB", _LONG),
    _oversize("4-gib", "A packet of 4 GiB", 0xFFFF_FFFF),
    *[_poke(*each) for each in _NONSENSE],
    Check(
        "order/bystander",
        "A client in the middle of a message, while others break the protocol",
        "What one client sends is no matter of another's: each of the above, and the message "
        "beside it goes on.",
        _LIMIT,
        _bystander,
        apart=True,
        weight=3,
    ),
)
