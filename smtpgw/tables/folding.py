"""What Postfix does to a key before a table sees it (dict_utf8.c, dict_hash.c).  Pure.

Tables with fixed keys (hash:, lmdb:, static:, SQL...) fold the key to lower case, tables
with patterns (regexp:, pcre:, cidr:, tcp:, socketmap:) do not.  With smtputf8_enable the
fold is Unicode's full case folding, a key that is not UTF-8 is in no table, and an answer
that is not UTF-8 is an error; without it, A to Z are folded and every octet is welcome.
"""

from __future__ import annotations

from dataclasses import dataclass


def is_utf8(text: bytes) -> bool:
    """Whether the octets are well-formed UTF-8 (RFC 3629: no surrogates, nothing overlong)."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Folding:
    """`smtputf8` as in Postfix's smtputf8_enable."""

    smtputf8: bool = True

    def fixed(self, key: bytes) -> bytes | None:
        """The key as a table of fixed keys is asked for it; None: no table has it."""
        if key.isascii() or not self.smtputf8:
            return key.lower()
        try:
            return key.decode().casefold().encode()
        except UnicodeDecodeError:
            return None

    def pattern(self, key: bytes) -> bytes | None:
        """The key as a table of patterns is asked for it; None: no table has it."""
        return key if not self.smtputf8 or is_utf8(key) else None

    def allows(self, text: bytes) -> bool:
        """Whether a source line or an answer may be what it is."""
        return not self.smtputf8 or is_utf8(text)
