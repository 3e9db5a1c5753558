"""Options of OpenSSL by the names of tls_ssl_options (SSL_CTX_set_options(3)).  Pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable

ALWAYS = int(ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION)
"""CRIME (CVE-2012-4929), and renegotiation as a load (RFC 8446 knows none any more)."""

NAMES = {
    "LEGACY_SERVER_CONNECT": 1 << 2,
    "TLSEXT_PADDING": 1 << 4,
    "DONT_INSERT_EMPTY_FRAGMENTS": 1 << 11,
    "NO_QUERY_MTU": 1 << 12,
    "NO_TICKET": 1 << 14,
    "NO_SESSION_RESUMPTION_ON_RENEGOTIATION": 1 << 16,
    "NO_COMPRESSION": 1 << 17,
    "NO_ENCRYPT_THEN_MAC": 1 << 19,
    "ENABLE_MIDDLEBOX_COMPAT": 1 << 20,
    "PRIORITIZE_CHACHA": 1 << 21,
    "CIPHER_SERVER_PREFERENCE": 1 << 22,
    "TLS_ROLLBACK_BUG": 1 << 23,
    "NO_ANTI_REPLAY": 1 << 24,
    "NO_RENEGOTIATION": 1 << 30,
    "CRYPTOPRO_TLSEXT_BUG": 1 << 31,
}
"""OpenSSL's bits (openssl/ssl.h, the same since 1.1.1); Python's ssl names some of them only."""

_FORBIDDEN = {"ALLOW_UNSAFE_LEGACY_RENEGOTIATION": 1 << 18}


def parse(words: Iterable[str]) -> int:
    """The options, and those that always count.  Raises ValueError for a name that is not known
    and for one that would open what :data:`ALWAYS` shuts."""
    found = ALWAYS
    for each in words:
        name = each.upper().removeprefix("SSL_OP_")
        if name in NAMES:
            found |= NAMES[name]
        elif re.fullmatch(r"0X[0-9A-F]{1,8}", name):
            found |= int(name, 16)
        else:
            raise ValueError(f"{each!r}: expected one of {', '.join(sorted(NAMES))}, or 0x...")
    if found & _FORBIDDEN["ALLOW_UNSAFE_LEGACY_RENEGOTIATION"]:
        raise ValueError("expected no unsafe renegotiation (RFC 5746)")
    return found
