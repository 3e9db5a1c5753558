"""Messages to send: a file, standard input, an mbox or a Maildir, one after the other.

What begins with "From " is an mbox: a line with that after an empty one begins a message,
and a line that such a mark was quoted in (">From ", ">>From ") loses one ">" (mboxrd).  A
directory is a Maildir: `cur` and `new`, each in the order of names (maildir(5)).  A LF without
CR is read as CRLF.  One message at a time is in memory, and none over LIMIT.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LIMIT = 64 * 1024 * 1024
"""Octets of one message."""
_LINE = 64 * 1024
"""Octets read at a time."""
_MARK = b"From "
_QUOTED = re.compile(rb">+From ")
_BARE_LF = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Message:
    """A message with CRLF line ends, and where it was found; or why there is none."""

    name: str
    octets: bytes = b""
    fault: str = ""


def messages(path: Path) -> Iterator[Message]:
    """What is at `path`, where "-" is standard input.  Whatever is wrong is a message's fault."""
    try:
        if str(path) == "-":
            yield from _stream("-", sys.stdin.buffer)
        elif path.is_dir():
            yield from _maildir(path)
        else:
            with path.open("rb") as file:
                yield from _stream(str(path), file)
    except OSError as error:
        yield Message(str(path), fault=error.strerror or str(error))


def _maildir(path: Path) -> Iterator[Message]:
    parts = [each for each in (path / "cur", path / "new") if each.is_dir()]
    if not parts:
        yield Message(str(path), fault="a directory without new and cur, so no Maildir")
    for part in parts:
        for each in sorted(part.iterdir()):
            if each.name.startswith("."):
                continue
            try:
                with each.open("rb") as file:
                    yield _whole(str(each), file, b"")
            except OSError as error:
                yield Message(str(each), fault=error.strerror or str(error))


def _stream(name: str, file: BinaryIO) -> Iterator[Message]:
    start = file.readline(_LINE)
    if start.startswith(_MARK):
        yield from _mbox(name, file, start)
    else:
        yield _whole(name, file, start)


def _whole(name: str, file: BinaryIO, start: bytes) -> Message:
    octets = start + file.read(LIMIT + 1 - len(start))
    if len(octets) > LIMIT:
        return Message(name, fault=f"over {LIMIT} octets")
    return Message(name, _with_crlf(octets))


def _mbox(name: str, file: BinaryIO, mark: bytes) -> Iterator[Message]:
    number = 0
    while mark:
        number += 1
        octets, mark = _until_mark(file, mark)
        found = f"{name}, message {number}"
        if octets is None:
            yield Message(found, fault=f"over {LIMIT} octets")
        else:
            yield Message(found, _with_crlf(octets))


def _until_mark(file: BinaryIO, mark: bytes) -> tuple[bytes | None, bytes]:
    """A message without its mark and the empty line behind it, and the next mark; None for a
    message that is too long."""
    kept = bytearray()
    long = False
    while not mark.endswith(b"\n") and mark:
        mark = file.readline(_LINE)
    begins, empty = True, False
    while piece := file.readline(_LINE):
        if empty and piece.startswith(_MARK):
            break
        line = piece[1:] if begins and _QUOTED.match(piece) else piece
        empty = begins and piece in (b"\n", b"\r\n")
        begins = piece.endswith(b"\n")
        long = long or len(kept) + len(line) > LIMIT
        if not long:
            kept += line
    if empty and not long:
        del kept[-2 if kept.endswith(b"\r\n") else -1 :]
    return None if long else bytes(kept), piece


def _with_crlf(octets: bytes) -> bytes:
    return _BARE_LF.sub(b"\r\n", octets)
