"""A milter by pymilter that does what the Subject says: add, reject, tempfail, discard,
quarantine, slow, crash; "seen" tells what it was shown, and takes back bob.
Usage: scripted_milter.py SOCKET"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import Milter


def _wait_for(sign: Path) -> None:
    """Until the test has made this file."""
    for _ in range(1000):
        if sign.exists():
            return
        time.sleep(0.02)


class Scripted(Milter.Base):
    """One connection."""

    def envfrom(self, _sender: str, *_args: str) -> int:
        self.word, self.author, self.recipients = "", "", []
        self.queue_id = self.getsymval("i") or ""
        return int(Milter.CONTINUE)

    def envrcpt(self, recipient: str, *_args: str) -> int:
        if recipient.startswith("<refused@"):
            self.setreply("550", "5.1.1", "no such user says the milter")
            return int(Milter.REJECT)
        self.recipients.append(recipient)
        return int(Milter.CONTINUE)

    def header(self, name: str, value: str) -> int:
        if name == "Subject":
            self.word = value
        if name == "From":
            self.author = value
        return int(Milter.CONTINUE)

    def abort(self) -> int:
        with Path(sys.argv[1].removeprefix("unix:") + ".aborts").open("a") as log:
            log.write("abort\n")
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        if self.word == "crash":
            os._exit(1)
        if self.word == "slow":
            _wait_for(Path(sys.argv[1].removeprefix("unix:") + ".go"))
        if self.word == "quarantine":
            self.quarantine("looks odd")
        if self.word == "reject":
            self.setreply("550", "5.7.1", "the milter says no")
        if self.word == "seen":
            self.addheader("X-Seen-From", self.author)
            self.addheader("X-Seen-Recipients", " ".join(self.recipients))
            self.delrcpt("<bob@example.net>")
        self.addheader("X-Scripted", f"yes, {self.queue_id}")
        answers = {
            "reject": Milter.REJECT,
            "tempfail": Milter.TEMPFAIL,
            "discard": Milter.DISCARD,
        }
        return int(answers.get(self.word, Milter.CONTINUE))


Milter.factory = Scripted
Milter.set_flags(Milter.ADDHDRS + Milter.DELRCPT + Milter.QUARANTINE)
Milter.runmilter("scripted", sys.argv[1], 60)
