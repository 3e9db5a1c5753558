"""One entry of a source of fixed keys: what postmap(1) and postalias(1) make of a line.  Pure."""

from __future__ import annotations

_SPACE = b" \t\r\n\v\f"


def postmap(text: bytes) -> tuple[bytes, bytes]:
    """Key and value of `key whitespace value`.  White space inside double quotes belongs to the
    key, which keeps the quotes; a backslash takes its meaning from what follows.  Raises
    ValueError saying what was expected."""
    at, quoted = 0, False
    while at < len(text):
        if text[at] == 0x5C:
            at += 1
        elif text[at] in _SPACE and not quoted:
            break
        elif text[at] == 0x22:
            quoted = not quoted
        at += 1
    if quoted:
        raise ValueError("a second '\"'")
    key, value = text[:at], text[at:].strip(_SPACE)
    if not key or not value:
        raise ValueError("key whitespace value")
    return key, value
