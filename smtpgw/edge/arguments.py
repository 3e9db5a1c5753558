"""What stands behind MAIL and RCPT: a path and its parameters, or why it is refused.  Pure.

The same senders and recipients come again and again: what was parsed is kept for a while.
"""

from __future__ import annotations

import functools

from smtpgw.address.params import (
    MailParams,
    ParamError,
    RcptParams,
    parse_mail_params,
    parse_rcpt_params,
)
from smtpgw.address.path import Path, PathError, parse_path
from smtpgw.edge import commands
from smtpgw.edge.commands import Command
from smtpgw.edge.road import Answer

KEPT = 1000
"""Arguments of each verb that need not be parsed again; none is longer than a line."""


@functools.lru_cache(KEPT)
def reverse_path(octets: bytes, strict: bool, known: frozenset[str]) -> tuple[Path, MailParams]:
    """What stands behind `MAIL FROM:`.  Raises PathError, ParamError."""
    sender, rest = parse_path(octets, strict=strict, utf8=True, null=True)
    return sender, parse_mail_params(rest, known)


@functools.lru_cache(KEPT)
def forward_path(
    octets: bytes, strict: bool, utf8: bool, known: frozenset[str]
) -> tuple[Path, RcptParams]:
    """What stands behind `RCPT TO:`.  Raises PathError, ParamError."""
    recipient, rest = parse_path(octets, strict=strict, utf8=utf8)
    return recipient, parse_rcpt_params(rest, known, utf8=utf8)


@functools.lru_cache(KEPT)
def usual_mail(line: bytes, strict: bool, known: frozenset[str]) -> tuple[Path, MailParams] | None:
    """What a whole line says that is nothing but a good MAIL; None for any other, which is to be
    looked at part by part.  For lines of at most :data:`smtpgw.edge.commands.SHORT` octets."""
    argument = _argument(line, "MAIL", b"FROM:")
    if argument is None:
        return None
    try:
        sender, params = reverse_path(argument, strict, known)
    except (PathError, ParamError):
        return None
    return (sender, params) if params.smtputf8 or sender.is_ascii else None


@functools.lru_cache(KEPT)
def usual_rcpt(
    line: bytes, strict: bool, utf8: bool, known: frozenset[str]
) -> tuple[Path, RcptParams] | None:
    """The same of a good RCPT."""
    argument = _argument(line, "RCPT", b"TO:")
    if argument is None:
        return None
    try:
        return forward_path(argument, strict, utf8, known)
    except (PathError, ParamError):
        return None


def _argument(line: bytes, verb: str, word: bytes) -> bytes | None:
    """What stands behind `verb` and `word`, if the line is one command of that kind."""
    command = commands.parse_command(line) if line.find(b"\n") + 1 == len(line) else None
    if not isinstance(command, Command) or command.verb != verb or command.bare_lf:
        return None
    argument = command.argument
    return argument[len(word) :] if argument[: len(word)].upper() == word else None


def bad_path(error: PathError, enhanced: str, unbracketed: bool) -> Answer:
    """501 with the status code of the path's kind, which RFC 3463 has one each for.

    553 where only SMTPUTF8 is missing; 5.5.4 where the command is wrong, not the address.
    """
    if error.needs_smtputf8:
        return Answer(553, "5.6.7", "Address needs SMTPUTF8")
    reason = error.reason[:1].upper() + error.reason[1:]
    return Answer(501, "5.5.4" if unbracketed else enhanced, reason)
