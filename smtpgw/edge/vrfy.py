"""VRFY: what it is asked for, and what is said where nothing speaks against it (RFC 5321
section 3.5.3).  Pure."""

from __future__ import annotations

import re

from smtpgw.address.path import Path, PathError, parse_path
from smtpgw.edge.road import Answer

SYNTAX = Answer(501, "5.5.4", "Syntax: VRFY address [SMTPUTF8]")
BAD_ADDRESS = Answer(501, "5.1.3", "Bad recipient address syntax")
DISABLED = Answer(502, "5.5.1", "VRFY command is disabled")

_UTF8 = re.compile(rb"[ \t]+SMTPUTF8\Z", re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}\Z")


def wanted(argument: bytes) -> Path | Answer:
    """Whom it is about, a bare name of ours too, or why that cannot be said."""
    if not argument:
        return SYNTAX
    address = _UTF8.sub(b"", argument)
    if _NAME.match(address):
        return Path(address, b"")
    try:
        path, rest = parse_path(address, strict=False, utf8=False)
    except PathError:
        return BAD_ADDRESS
    return BAD_ADDRESS if rest else path


def taken(argument: bytes) -> Answer:
    """We would take mail for it, which does not say that it is there."""
    return Answer(252, "2.0.0", argument.decode("ascii", "replace"))
