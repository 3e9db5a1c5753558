"""Mails of all sorts and sizes from a seed, and the client that hands them in.

Whoever knows seed and number can make a mail again, so nobody has to keep what was sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

SIZE_LIMIT = 26_214_400
"""Octets of the largest mails, the gateway's default message_size_limit: 25 MiB."""
MARK = b"X-Letter: "
"""The first field of each mail; what stands above it others have put there."""

_PRINTABLE = bytes(range(32, 127))
_ALPHABETS = {
    "text": _PRINTABLE,
    "dots": b"...x",
    "long lines": _PRINTABLE,
    "8-bit": bytes(set(range(1, 256)) - {10, 13}),
    "no line end": _PRINTABLE,
    "control": bytes(set(range(1, 32)) - {10, 13}) + b"\x7f",
    "blank": b" \t",
    "empty": b"",
}
KINDS = tuple(_ALPHABETS)
_WIDTHS = {"dots": 4, "long lines": 9000, "8-bit": 300}
_TRAPS = b".\r\n..\r\n\r\nFrom here\r\n>From there\r\n.\r\nQUIT\r\n"


@dataclass(frozen=True)
class Letter:
    """One mail: `octets` from its first field to its end, which may lack the last CRLF."""

    number: int
    kind: str
    octets: bytes
    ended: bool
    """Whether it ends in CRLF, as it has to for DATA."""

    def arriving(self, fold: int = 0) -> bytes:
        """What has to be there at the other end: with a last CRLF, and lines over `fold`
        octets broken by CRLF and a space (smtp_line_length_limit), if that is not 0."""
        whole = self.octets if self.ended else self.octets + b"\r\n"
        if not fold or self.kind != "long lines":
            return whole
        return b"\r\n".join(_folded(line, fold) for line in whole.split(b"\r\n"))


def _folded(line: bytes, limit: int) -> bytes:
    first, rest = line[:limit], line[limit:]
    parts = [rest[at : at + limit - 1] for at in range(0, len(rest), limit - 1)]
    return b"\r\n ".join([first, *parts])


@dataclass(frozen=True)
class Mailbag:
    """`count` letters made from `seed`, some of them as large as may be."""

    seed: int
    count: int

    @property
    def large(self) -> frozenset[int]:
        """The numbers of those of 25 MiB."""
        many = 2 + self.count // 1000
        return frozenset(self.count * each // many + bool(each) for each in range(many))

    def letter(self, number: int) -> Letter:
        """The letter of that number, the same each time."""
        chance = random.Random(f"{self.seed} {number}")
        kind = chance.choice(KINDS)
        head = _head(self.seed, number, kind)
        if number in self.large:
            kind = "8-bit" if number else "text"
            size = SIZE_LIMIT - len(head)
        else:
            size = _size(chance)
        body = _body(chance, kind, size)
        return Letter(number, kind, head + body, (head + body).endswith(b"\r\n"))


def _size(chance: random.Random) -> int:
    """Octets, spread by their logarithm: most to 16 KiB, a tenth above, a hundredth to 25 MiB."""
    low, high = chance.choices([(0, 14), (14, 20), (20, 24.5)], [90, 9, 1])[0]
    return int(2 ** chance.uniform(low, high))


def _head(seed: int, number: int, kind: str) -> bytes:
    greeting = "grüße" if kind == "8-bit" else "greetings"
    return (
        f"{MARK.decode()}{seed}.{number}\r\n"
        "From: A <a@example.org>\r\n"
        "To: somebody@example.net\r\n"
        f"subject:  {greeting},\r\n\tfolded  oddly\r\n .dot \r\n"
        "Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n"
        f"Message-ID: <{seed}.{number}@example.org>\r\n"
        "x-UPPER-lower:no space\r\n"
        "X-Empty:\r\n"
        "\r\n"
    ).encode()


def _body(chance: random.Random, kind: str, size: int) -> bytes:
    """A body of exactly `size` octets, or none at all."""
    alphabet = _ALPHABETS[kind]
    if not alphabet or size < 4:
        return b""
    width = chance.randint(1, _WIDTHS.get(kind, 76)) if size < 2**18 else 500
    octets = chance.randbytes(size).translate(
        bytes(alphabet[n % len(alphabet)] for n in range(256))
    )
    lines = b"\r\n".join(octets[at : at + width] for at in range(0, size, width))
    whole = (_TRAPS if kind == "text" else b"") + lines
    if kind == "no line end":
        return whole[:size].rstrip(b"\r\n") + b"."
    return whole[: size - 2].removesuffix(b"\r").ljust(size - 2, b"z") + b"\r\n"


async def hand_in(port: int, letters: Iterator[tuple[Letter, list[str]]]) -> int:
    """Send what `letters` still gives, each to its recipients, over one connection; how many.

    By DATA or by BDAT, as comes.  Raises AssertionError at any answer but the good one.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    await _reply(reader, b"220")
    writer.write(b"EHLO client.example.org\r\n")
    await _reply(reader, b"250")
    for letter, recipients in letters:
        writer.write(b"MAIL FROM:<a@example.org> BODY=8BITMIME\r\n")
        writer.writelines(b"RCPT TO:<%b>\r\n" % each.encode() for each in recipients)
        for _ in range(1 + len(recipients)):
            await _reply(reader, b"250")
        send = _data if letter.ended and letter.number % 3 else _bdat
        await send(reader, writer, letter)
        sent += 1
    writer.write(b"QUIT\r\n")
    await _reply(reader, b"221")
    writer.close()
    return sent


async def _data(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, letter: Letter) -> None:
    writer.write(b"DATA\r\n")
    await _reply(reader, b"354")
    writer.write(letter.octets.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    await writer.drain()
    await _reply(reader, b"250")


async def _bdat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, letter: Letter) -> None:
    chance = random.Random(letter.number)
    rest = memoryview(letter.octets)
    while rest:
        size = min(chance.choice([7, 1000, 100_000, 3_000_000]), len(rest))
        last = b" LAST" if size == len(rest) else b""
        writer.write(b"BDAT %d%b\r\n" % (size, last))
        writer.write(rest[:size])
        rest = rest[size:]
        await writer.drain()
        await _reply(reader, b"250")


async def _reply(reader: asyncio.StreamReader, code: bytes) -> None:
    line = await reader.readline()
    while line[3:4] == b"-":
        line = await reader.readline()
    assert line.startswith(code), (code, line)
