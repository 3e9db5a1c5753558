"""DKIM records as zone files have them (RFC 1035 section 5.1)."""

from __future__ import annotations

STRING = 255
"""Octets of the longest character-string (RFC 1035 section 3.3)."""


def line(name: str, text: str, ttl: int = 3600) -> str:
    """A TXT record with its text in strings of at most 255 octets."""
    parts = [text[at : at + STRING] for at in range(0, len(text), STRING)]
    quoted = " ".join(f'"{_escaped(each)}"' for each in parts)
    return (
        f"{name}. {ttl} IN TXT ( {quoted} )" if len(parts) > 1 else f"{name}. {ttl} IN TXT {quoted}"
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
