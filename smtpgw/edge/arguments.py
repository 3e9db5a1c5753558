"""What stands behind MAIL and RCPT: a path and its parameters, or why it is refused.  Pure.

The same senders and recipients come again and again: what was parsed is kept for a while.
"""

from __future__ import annotations

import functools

from smtpgw.address.params import (
    MailParams,
    RcptParams,
    parse_mail_params,
    parse_rcpt_params,
)
from smtpgw.address.path import Path, PathError, parse_path
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


def bad_path(error: PathError, enhanced: str, unbracketed: bool) -> Answer:
    """501 with the status code of the path's kind, which RFC 3463 has one each for.

    553 where only SMTPUTF8 is missing; 5.5.4 where the command is wrong, not the address.
    """
    if error.needs_smtputf8:
        return Answer(553, "5.6.7", "Address needs SMTPUTF8")
    reason = error.reason[:1].upper() + error.reason[1:]
    return Answer(501, "5.5.4" if unbracketed else enhanced, reason)
