"""Where `--out` puts messages: a file, a directory, or an mbox.

A directory, or a path that ends in a slash, takes a file for each message, numbered.  Any
other path takes the one message as it is, or several as an mbox (mboxrd, with LF line ends).
"""

from __future__ import annotations

import re
from pathlib import Path

from milterd.core.mail import Mail

_FROM = re.compile(rb"(?m)^(>*From )")
_NO_DATE = b"Thu Jan  1 00:00:00 1970"


class Outbox:
    """Messages written one by one; OSError where that fails."""

    def __init__(self, path: str, several: bool) -> None:
        self._path = Path(path)
        self._several = several
        self._directory = path.endswith("/") or self._path.is_dir()
        self._number = 0

    def put(self, mail: Mail) -> None:
        """Write one message."""
        self._number += 1
        octets = b"".join(mail.pieces())
        if self._directory:
            self._path.mkdir(parents=True, exist_ok=True)
            (self._path / f"{self._number:05}.eml").write_bytes(octets)
        elif self._several:
            # The first one begins the file anew.
            with self._path.open("wb" if self._number == 1 else "ab") as file:
                file.write(_mbox_entry(mail.envelope.sender, octets))
        else:
            self._path.write_bytes(octets)


def _mbox_entry(sender: bytes, octets: bytes) -> bytes:
    text = _FROM.sub(rb">\1", octets.replace(b"\r\n", b"\n"))
    end = b"\n" if text.endswith(b"\n") else b"\n\n"
    who = re.sub(rb"\s", b"-", sender) or b"MAILER-DAEMON"
    return b"From %b %b\n%b%b" % (who, _NO_DATE, text, end)
