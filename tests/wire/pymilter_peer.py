"""A milter on Debian's libmilter that does what a mail's X-Ask fields say; run as a program.

`python pymilter_peer.py SOCKET LOG`: what the callbacks saw goes into LOG, one
line an event.  `X-Ask: add|insert|change|delete|body|rcpt+|rcpt-|from|quarantine|
reject|reply|discard|progress` are what to do at end of message.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import Milter

LOG = Path(sys.argv[2])


def _log(*words: object) -> None:
    with LOG.open("ab") as file:
        line = " ".join(each if isinstance(each, str) else repr(each) for each in words)
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")


class Peer(Milter.Base):  # type: ignore[misc]
    """Writes down what it is told, and asks for edits."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.octets = 0

    def connect(self, host: str, family: int, address: Any) -> int:
        _log("connect", host, family, address)
        return int(Milter.CONTINUE)

    def hello(self, name: str) -> int:
        _log("helo", name)
        return int(Milter.CONTINUE)

    def envfrom(self, address: str, *args: str) -> int:
        self.asked, self.octets = [], 0
        _log("mail", address, *args, self.getsymval("{auth_authen}"))
        return int(Milter.CONTINUE)

    def envrcpt(self, address: str, *args: str) -> int:
        _log("rcpt", address, *args)
        return int(Milter.REJECT if address.startswith("<refuse") else Milter.CONTINUE)

    def data(self) -> int:
        _log("data")
        return int(Milter.CONTINUE)

    def header(self, name: str, value: str) -> int:
        _log("header", name, value)
        if name == "X-Ask":
            self.asked.append(value.strip())
        return int(Milter.CONTINUE)

    def eoh(self) -> int:
        _log("eoh")
        return int(Milter.CONTINUE)

    def body(self, chunk: bytes) -> int:
        self.octets += len(chunk)
        return int(Milter.SKIP if self.octets > 100_000 else Milter.CONTINUE)

    def eom(self) -> int:
        _log("eom", str(self.octets), self.getsymval("i"))
        verdict = Milter.CONTINUE
        for each in self.asked:
            verdict = self._do(each) or verdict
        return int(verdict)

    def _do(self, what: str) -> int | None:
        match what:
            case "add":
                self.addheader("X-Added", "one\n\ttwo")
            case "insert":
                self.addheader("X-Inserted", "top", 0)
            case "change":
                self.chgheader("Subject", 1, "changed")
            case "delete":
                self.chgheader("Subject", 1, "")
            case "body":
                self.replacebody("new body\r\n")
            case "rcpt+":
                self.addrcpt("<new@example.net>", "NOTIFY=NEVER")
            case "rcpt-":
                self.delrcpt("<b@example.net>")
            case "from":
                self.chgfrom("<>", "RET=HDRS")
            case "quarantine":
                self.quarantine("odd")
            case "progress":
                self.progress()
            case "reject":
                return int(Milter.REJECT)
            case "discard":
                return int(Milter.DISCARD)
            case "reply":
                self.setreply("554", "5.7.1", "no %% thanks", "really")
                return int(Milter.REJECT)
        return None

    def abort(self) -> int:
        _log("abort")
        return int(Milter.CONTINUE)

    def close(self) -> int:
        _log("close")
        return int(Milter.CONTINUE)


if __name__ == "__main__":
    Milter.factory = Peer
    Milter.set_flags(
        Milter.CHGBODY
        | Milter.CHGHDRS
        | Milter.ADDHDRS
        | Milter.ADDRCPT
        | Milter.DELRCPT
        | Milter.QUARANTINE
        | Milter.CHGFROM
        | Milter.ADDRCPT_PAR
    )
    Milter.set_exception_policy(Milter.TEMPFAIL)
    Milter.runmilter("peer", f"unix:{sys.argv[1]}", 60)
