"""One dialogue with a server, command by command, and what it said to each."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BufferedReader

MESSAGE = b"From: <s@good.example>\r\nSubject: x\r\n\r\nhello\r\n.\r\n"
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3}) ")
PATIENCE = 60.0


@dataclass(frozen=True)
class Said:
    """A reply; code 0: the connection was closed instead."""

    code: int
    enhanced: str
    text: str
    command: str = ""

    @property
    def codes(self) -> tuple[int, str]:
        """What is compared."""
        return self.code, self.enhanced


CLOSED = Said(0, "", "")


def held(client: socket.socket, commands: Sequence[str]) -> list[Said]:
    """The banner and the reply to each command; after DATA was granted, the one to the message
    follows.  It ends where the server closes."""
    with client, client.makefile("rb") as file:
        found = [_reply(file)]
        for each in commands:
            if found[-1].code in (0, 421, 521):
                break
            said = _ask(client, file, each.encode() + b"\r\n")
            found.append(replace(said, command=each))
            if each == "DATA" and found[-1].code == 354:
                found.append(_ask(client, file, MESSAGE))
        return found


def _ask(client: socket.socket, file: BufferedReader, octets: bytes) -> Said:
    try:
        client.sendall(octets)
    except OSError:
        return CLOSED
    return _reply(file)


def _reply(file: BufferedReader) -> Said:
    lines: list[str] = []
    while True:
        try:
            line = file.readline(5000).decode("utf-8", "replace")
        except ConnectionError:
            return CLOSED
        if not line:
            return CLOSED
        lines.append(line[4:].rstrip("\r\n"))
        if line[3:4] != "-":
            found = _ENHANCED.match(lines[-1])
            return Said(int(line[:3]), found[1] if found else "", "\n".join(lines))
