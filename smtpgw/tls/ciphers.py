"""Cipher lists from Postfix's grades and exclusions (postconf(5), smtpd_tls_ciphers).  Pure.

A grade is the least that is taken: its list has the better ones too.  Ciphers of TLS 1.3 are
OpenSSL's own business and always there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

GRADES = ("export", "low", "medium", "high", "null")

ANONYMOUS = "aNULL"
"""Ciphers without a certificate of ours.  Postfix offers them where encryption is a mere
favour; we do not, for who is in the middle can be one end of them (RFC 7435 section 6)."""

_WORD = re.compile(r"[A-Za-z0-9+_.=@-]+\Z")


def cipher_list(grade: str, without: Iterable[str]) -> str:
    """What OpenSSL is told: the list of a grade, and what is left out of it.

    Raises ValueError for an exclusion that would be more than one.
    """
    words = [grade]
    for each in (ANONYMOUS, *without):
        bare = each.lstrip("!-")
        if _WORD.match(bare) is None:
            raise ValueError(f"{each!r}: expected a cipher, or a kind of ciphers such as RC4")
        words.append(f"!{bare}")
    return ":".join(words)
