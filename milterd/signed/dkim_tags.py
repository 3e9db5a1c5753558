"""Tag lists, as DKIM signatures and key records are written (RFC 6376 section 3.2)."""

from __future__ import annotations

import base64
import binascii
import re

TAG_LIMIT = 100
"""Tags of a list; there are 12 for a signature."""

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_BLANK = b" \t\r\n"
_BLANKS = re.compile(rb"[ \t\r\n]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_VALUE_OF_B = re.compile(rb"((?:\A|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")


class TagError(ValueError):
    """A tag list, or a tag, that cannot be used; the text says which and never quotes a value."""


def tags(text: bytes) -> dict[bytes, bytes]:
    """The tags by name, white space at the ends of values gone.  Raises TagError.

    A tag that is there twice makes the whole list void.
    """
    if _CONTROL.search(text):
        raise TagError("a control character")
    found: dict[bytes, bytes] = {}
    parts = text.split(b";", TAG_LIMIT)
    if not parts[-1].strip(_BLANK):
        parts.pop()
    if len(parts) > TAG_LIMIT:
        raise TagError(f"more than {TAG_LIMIT} tags")
    for part in parts:
        name, equals, value = part.partition(b"=")
        name = name.strip(_BLANK)
        if not equals or not _NAME.fullmatch(name):
            raise TagError("no tag=value between semicolons")
        if name in found:
            raise TagError(f"tag {name.decode('ascii')}= twice")
        found[name] = value.strip(_BLANK)
    return found


def words(value: bytes) -> tuple[bytes, ...]:
    """The words of a list that colons part, white space gone."""
    return tuple(_BLANKS.sub(b"", each) for each in value.split(b":"))


def octets(value: bytes, tag: str) -> bytes:
    """What a base64 value stands for; folding white space may be anywhere.  Raises TagError."""
    try:
        return base64.b64decode(_BLANKS.sub(b"", value), validate=True)
    except binascii.Error:
        raise TagError(f"{tag}= is not base64") from None


def without_b(value: bytes) -> bytes:
    """A signature field's value with its `b=` empty, as it was when it was signed (section 3.7)."""
    return _VALUE_OF_B.sub(rb"\1", value, count=1)
