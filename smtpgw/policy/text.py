"""Words of replies: octets of others as a reply may have them, and enhanced status codes that go
with what is refused (RFC 3463; smtpd_dsn_fix(3), dsn_util(3)).  Pure.
"""

from __future__ import annotations

import re

from milterd.core.decision import Reply

CLIENT = "Client host"
REVERSE_CLIENT = "Unverified Client host"
CCERT = "Client certificate"
SASL_USER = "SASL login name"
HELO = "Helo command"
SENDER = "Sender address"
RECIPIENT = "Recipient address"
ETRN = "Etrn command"
DATA = "Data command"
END_OF_DATA = "End-of-data"
"""What is refused, as Postfix names it."""

LONGEST = 510
"""Octets of a refusal, its codes included."""
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?=\s|\Z)")
_OF_SENDERS = {"1": "1.0", "2": "1.8", "3": "1.7", "4": "1.0", "5": "1.0", "6": "1.0", "7": "1.7",
               "8": "1.8"}  # fmt: skip
_OF_RECIPIENTS = {"1": "1.1", "2": "1.2", "3": "1.3", "4": "1.4", "5": "1.5", "6": "1.6",
                  "7": "1.3", "8": "1.2"}  # fmt: skip


def shown(octets: bytes) -> str:
    """Octets as text that may stand in a reply."""
    return printable(octets.decode("utf-8", "replace"))


def printable(text: str) -> str:
    """The text with a blank for all that a reply line cannot have."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def split_status(default: str, text: str) -> tuple[str, str]:
    """An enhanced status code at the front of a text, or the default, and the text behind it."""
    found = _STATUS.match(text)
    if found is None:
        return default, text
    return found[0], text[found.end() :].lstrip()


def fitting(status: str, what: str) -> str:
    """A status for `what` is refused: one of a recipient's address is not one of a sender's, nor
    of anything else, though a table may say either."""
    if not status[1:].startswith(".1."):
        return status
    micro = status[4:]
    if what == SENDER:
        return f"{status[0]}.{_OF_SENDERS.get(micro, '1.0')}"
    if what == RECIPIENT:
        return f"{status[0]}.{_OF_RECIPIENTS.get(micro, '1.0')}"
    return f"{status[0]}.0.0"


def reply(code: int, status: str, text: str, *, soft: bool = False) -> Reply:
    """A refusal: the status begins like the code; a code that refuses nothing, or a status that
    is none, becomes `450 4.7.1 Service unavailable`.  `soft` makes 4xx of 5xx (soft_bounce)."""
    if not 400 <= code <= 599 or _STATUS.fullmatch(status) is None:
        code, status, text = 450, "4.7.1", "Service unavailable"
    if soft and code >= 500:
        code -= 100
    text = printable(text)
    room = LONGEST - len(str(code)) - len(status) - 2
    if len(text) > room or not text.isascii():
        text = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
    return Reply(code, f"{code // 100}{status[1:]}", text)
