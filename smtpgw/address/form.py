"""Two forms of an address: as it means (internal) and as it is written (external).

`john doe@example.com` is internal, `"john doe"@example.com` external (RFC 5321 section 4.1.2).
Tables are asked for, and answer with, the external form; rules work on the internal one, in
which the last `@` parts local part and domain.  Pure.
"""

from __future__ import annotations

import re

_DOT_STRING = re.compile(
    rb"[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+(?:\.[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+)*"
)
_TO_ESCAPE = re.compile(rb'["\\\r]')
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)("?)', re.DOTALL)
"""To its end, or to that of the octets: what does not end is read once only."""


def split(address: bytes) -> tuple[bytes, bytes | None]:
    """Local part and domain of an internal address; no domain is None, an empty one `b""`."""
    local, at, domain = address.rpartition(b"@")
    return (local, domain) if at else (domain, None)


def external(address: bytes) -> bytes:
    """As it is written: the local part in quotes where it needs them.  `@domain` and the null
    address stay what they are."""
    local, domain = split(address)
    if not local and (domain is None or address.startswith(b"@")):
        return address
    quoted = quote(local)
    return quoted if domain is None else b"%b@%b" % (quoted, domain)


def quote(local: bytes) -> bytes:
    """A local part as it is written (RFC 5322 section 3.4.1); 8-bit octets need no quotes."""
    if _DOT_STRING.fullmatch(local):
        return local
    return b'"%b"' % _TO_ESCAPE.sub(rb"\\\g<0>", local)


def internal(address: bytes) -> bytes:
    """What an external address means: quotes and quoted pairs resolved.  A quoted string that
    does not end is left as it is."""
    if b'"' not in address:
        return address
    return _QUOTED.sub(_meant, address)


def _meant(match: re.Match[bytes]) -> bytes:
    return re.sub(rb"(?s)\\(.)", rb"\1", match[1]) if match[2] else match[0]
