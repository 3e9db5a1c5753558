"""Authentication-Results about DKIM (RFC 8601), and what others have forged in our name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from milterd.core.actions import ChangeHeader
from milterd.core.mail import Mail
from milterd.filters.dkim_verify import Verified
from milterd.filters.mailbox import AddressError, first_word
from milterd.signed.dkim_names import is_domain

FIELD = b"Authentication-Results"
FORGED_LIMIT = 100
"""A mail that brings more in our name is refused: nobody does so by accident, and each deletion
costs the MTA a look at the whole header."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~/@-]+")
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


def value(authserv_id: str, results: Sequence[Verified], ignored: int = 0) -> bytes:
    """The value of the field, folded; nobody's octets but letters and signs of ASCII are in it."""
    lines = [f" {authserv_id};"]
    words = [_result(each) for each in results] or ["dkim=none"]
    if ignored:
        words[-1] += f"\r\n\t\t({ignored} more signatures not looked at)"
    lines.append(";\r\n\t".join(words))
    return "\r\n\t".join(lines).encode("ascii")


def forged(mail: Mail, authserv_id: str) -> list[ChangeHeader]:
    """Deletions of the fields that a mail brought in our name, highest index first.

    One whose name cannot be read goes too: the next reader may read it his own way
    (RFC 8601 section 5).
    """
    ours = [
        at
        for at, each in enumerate(mail.values(FIELD), 1)
        if _claims(each, authserv_id.lower().encode("ascii"))
    ]
    return [ChangeHeader(FIELD, at, b"") for at in reversed(ours)]


def _claims(text: bytes, authserv_id: bytes) -> bool:
    try:
        return first_word(text).lower() == authserv_id
    except AddressError:
        return True


def _result(found: Verified) -> str:
    words = [f"dkim={found.outcome.value}"]
    if found.why:
        words.append(f"reason={_quoted(found.why)}")
    if found.testing:
        words.append("(test key)")
    return "\r\n\t\t".join([" ".join(words), *_properties(found)])


def _properties(found: Verified) -> Iterator[str]:
    if found.domain:
        yield f"header.d={found.domain}"
    if found.identity:
        yield f"header.i={_pvalue(found.identity)}"
    if found.selector:
        yield f"header.s={found.selector}"
    if found.algorithm:
        yield f"header.a={found.algorithm}"
    if found.start:
        yield f"header.b={_quoted(found.start)}"


def _pvalue(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if not is_domain(domain):
        return _quoted(text)
    shown = local if _TOKEN.fullmatch(local) or not local else _quoted(local)
    return f"{shown}{at}{domain}"


def _quoted(text: str) -> str:
    return f'"{_UNSAFE.sub("_", text)}"'
