"""Values that programs trip over: empty, long, 8-bit, with signs of somebody's syntax."""

from __future__ import annotations

from random import Random

from milterd.core.mail import Family
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, Command
from milterd.wire.states import CommandType

_ODD = (
    b"", b" ", b"\t", b"x", b"%s%n%d", b"%", b"\\", b"'\"`;|&$(id)", b"../../etc/passwd",
    b"\xff\xfe\x80", "grüße \U0001f600".encode(), b"\xc3", b"\x7f\x01\x1b[2J", b"\r\n", b"\n",
    b"a\n\tb\n c", b"a\r\n b", b"=?utf-8?q?=00?=", b"=?x?b?" + b"A" * 100, b"<", b">", b"@", b"a@b",
    b"(" * 500, b"<" * 300 + b">" * 300, b"a." * 1000, b"x" * 998, b"y" * 2500,
)  # fmt: skip
_LONG = (b"z" * 20_000, b"w" * 60_000, b"\xe2\x82" * 30_000, b"l\n " * 20_000)
_NAMES = (
    b"From", b"To", b"Subject", b"Received", b"DKIM-Signature", b"Content-Type", b"Message-ID",
    b"Date", b"Authentication-Results", b"Reply-To", b"X-Spam-Flag",
)  # fmt: skip
_ADDRESSES = (
    b"<>", b"<a@b.example>", b"<a@[192.0.2.1]>", b'<"a b"@c.example>', b"<a%b@c>", b"<@x,@y:a@b>",
    b"<postmaster>", b"a@b", b"<a@b", b"<" + b"a" * 300 + b"@" + b"b" * 300 + b">",
    "<ü@ü.example>".encode(), b"<a@b> <c@d>",
)  # fmt: skip
_ARGUMENTS = (
    b"SIZE=1000", b"SIZE=99999999999999999999", b"BODY=8BITMIME", b"SMTPUTF8", b"RET=HDRS", b"=",
    b"AUTH=<>", b"NOTIFY=NEVER", b"ORCPT=rfc822;" + b"x" * 600,
)  # fmt: skip
_CLIENTS = (
    (Family.UNKNOWN, b""), (Family.INET, b"192.0.2.1"), (Family.INET, b"0.0.0.0"),
    (Family.INET6, b"2001:db8::1"), (Family.INET6, b"IPv6:::1"), (Family.UNIX, b"/run/s"),
)  # fmt: skip
_MACROS = (b"i", b"j", b"_", b"v", b"{auth_authen}", b"{mail_addr}", b"{daemon_name}", b"{}", b"{",
           b"{" + b"n" * 300 + b"}")  # fmt: skip
_BODIES = (
    b"text\r\n", b".\r\n", b"\r", b"\n", b"\0", bytes(range(256)) * 4, b"\r\n" * 500,
    b"--\r\n" * 200, b"x" * (CHUNK - 1), b"y" * CHUNK, b"\r" * 1000, b"From x\r\n", b"\xff" * 3000,
)  # fmt: skip


def odd(random: Random) -> bytes:
    """A string, mostly short."""
    return random.choice(_LONG) if random.random() < 0.03 else random.choice(_ODD)


def _usual(random: Random, usual: tuple[bytes, ...], share: float = 0.6) -> bytes:
    return random.choice(usual) if random.random() < share else odd(random)


def event(kind: CommandType, random: Random) -> m.CommandMessage:
    """An event of that kind with odd values, that an MTA could send."""
    if kind is m.Connect:
        family, address = random.choice(_CLIENTS)
        return m.Connect(odd(random), family, random.choice((0, 25, 65535)), address)
    if kind is m.Helo:
        return m.Helo(_usual(random, (b"mx.example.org", b"[192.0.2.1]")))
    if kind is m.MailFrom:
        return m.MailFrom(_usual(random, _ADDRESSES, 0.8), _arguments(random))
    if kind is m.RcptTo:
        return m.RcptTo(_usual(random, _ADDRESSES, 0.8), _arguments(random))
    if kind is m.Header:
        # A frame holds 65535 octets: one of the two is short.
        return m.Header(_usual(random, _NAMES, 0.7)[:2500] or b"X", odd(random))
    if kind is m.BodyChunk:
        return m.BodyChunk(random.choice(_BODIES))
    if kind is m.Unknown:
        return m.Unknown(odd(random))
    plain: dict[CommandType, m.CommandMessage] = {
        m.Data: m.Data(), m.EndOfHeaders: m.EndOfHeaders(), m.EndOfMessage: m.EndOfMessage(),
        m.Abort: m.Abort(), m.Quit: m.Quit(), m.QuitNewConnection: m.QuitNewConnection(),
    }  # fmt: skip
    return plain[kind]


def impossible(random: Random) -> m.CommandMessage:
    """An event that is well-formed, and that no MTA can come to send."""
    return random.choice(
        (
            m.Header(b"", odd(random)),
            m.Header(b"", b""),
            m.BodyChunk(b""),
            m.EndOfMessage(random.choice(_BODIES)),
            m.Connect(odd(random), Family.INET, 25, b"300.1.1.1"),
            m.Connect(odd(random), Family.INET6, 25, odd(random)),
            m.Connect(b"", Family.UNIX, 0, b""),
            m.MailFrom(b""),
            m.RcptTo(b"", (b"", b"")),
            m.Helo(b""),
        )
    )


def _arguments(random: Random) -> tuple[bytes, ...]:
    count = random.choice((0, 0, 0, 1, 2, 30))
    return tuple(_usual(random, _ARGUMENTS)[:1500] for _ in range(count))


def macros(command: Command, random: Random) -> m.Macros:
    """Macros for a command; perhaps none in the packet."""
    count = random.choice((0, 1, 2, 5, 20))
    return m.Macros(
        command, tuple((random.choice(_MACROS), odd(random)[:2500]) for _ in range(count))
    )
