"""Domain names and selectors as DKIM takes them: labels of ASCII letters, digits, `-` and `_`."""

from __future__ import annotations

import re

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
DOMAIN_LIMIT = 253


def is_domain(text: str) -> bool:
    """Whether that can be a domain in DNS, without a final dot.  IDNs are A-labels."""
    return len(text) <= DOMAIN_LIMIT and _NAME.fullmatch(text) is not None


def key_name(domain: str, selector: str) -> str | None:
    """Where a key is published (RFC 6376 section 3.6.2.1), or None if nothing can be there."""
    name = f"{selector}._domainkey.{domain}"
    return name.lower() if is_domain(domain) and is_domain(name) else None


def is_within(domain: str, above: str) -> bool:
    """Whether a domain is the other, or below it; both in lower case."""
    return domain == above or domain.endswith(f".{above}")
