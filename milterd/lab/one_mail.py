"""The one message of a command line, with the envelope and the session it is given."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import typer

from milterd.core.mail import Envelope, Mail, Recipient, Session, parse_message
from milterd.lab.arguments import octets

_BARE_LF = re.compile(rb"(?<!\r)\n")


def envelope_of(sender: str, recipients: list[str] | None) -> Envelope:
    """The envelope that options give.  Raises typer.BadParameter."""
    given = [octets(each, "--to") for each in recipients or ["recipient@example.net"]]
    return Envelope(octets(sender, "--from"), recipients=tuple(map(Recipient, given)))


def read_one(path: Path, session: Session, envelope: Envelope) -> Mail:
    """The message in a file, or on standard input where it is called "-"; bare LF is read
    as CRLF.  Raises typer.BadParameter."""
    try:
        found = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="FILE") from None
    parsed = parse_message(_BARE_LF.sub(b"\r\n", found))
    return Mail(session, envelope, parsed.headers, parsed.body, parsed.separator)
