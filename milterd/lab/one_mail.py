"""The one message of a command line, with the envelope and the session it is given."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import typer

from milterd.core.mail import Envelope, Mail, Recipient, Session, parse_message
from milterd.lab.arguments import octets
from milterd.lab.mailbox import messages


def envelope_of(sender: str, recipients: list[str] | None) -> Envelope:
    """The envelope that options give.  Raises typer.BadParameter."""
    given = [octets(each, "--to") for each in recipients or ["recipient@example.net"]]
    return Envelope(octets(sender, "--from"), recipients=tuple(map(Recipient, given)))


def read_one(path: Path, session: Session, envelope: Envelope) -> Mail:
    """The one message at `path` (see :mod:`milterd.lab.mailbox`).

    Raises typer.BadParameter where there is none, or more than one.
    """
    found = list(islice(messages(path), 2))
    if len(found) != 1:
        count = "more than one message" if found else "no message"
        raise typer.BadParameter(f"{path}: {count}, expected one", param_hint="FILE")
    message = found[0]
    if message.fault:
        raise typer.BadParameter(f"{message.name}: {message.fault}", param_hint="FILE")
    parsed = parse_message(message.octets)
    return Mail(session, envelope, parsed.headers, parsed.body, parsed.separator)
