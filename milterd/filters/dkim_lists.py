"""Which header fields a signature covers, unless the settings say otherwise."""

from __future__ import annotations

from collections.abc import Iterable

OVERSIGN = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
)
"""Fields named one time more than they are present, even when absent."""
SIGN = (
    "content-disposition",
    "content-id",
    "content-description",
    "resent-date",
    "resent-from",
    "resent-sender",
    "resent-to",
    "resent-cc",
    "resent-message-id",
    "list-id",
    "list-help",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
    "autocrypt",
)
"""Fields named as often as they are present."""
NEVER = ("return-path", "received", "comments", "keywords", "bcc", "resent-bcc", "dkim-signature")
"""Fields that are expected to change, or to go, on the way (RFC 6376 section 5.4.1)."""


def lists(
    oversign: Iterable[str], sign: Iterable[str], omit: Iterable[str]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Names to oversign and names to sign, in lower case and each once; From whatever is said."""
    left_out = {each.lower() for each in omit} - {"from"}
    over = [each for each in _once(("from", *oversign)) if each not in left_out]
    rest = [each for each in _once(sign) if each not in left_out and each not in over]
    return _octets(over), _octets(rest)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(each.lower() for each in names))


def _octets(names: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(each.encode("ascii") for each in names)
