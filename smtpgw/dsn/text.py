"""Octets that others chose, made fit to stand in a mail of ours.

Whatever goes in, what comes out has no control character, no bare CR or LF, and no line of
over 998 octets.
"""

from __future__ import annotations

import binascii
import re

LINE = 998
"""Octets of a line without its CRLF (RFC 5322 section 2.1.1)."""
WIDTH = 76
TOKEN = 900
"""Octets of one foreign value in a field: with its name before it, it stands in a line."""

_WORD = re.compile(r" *[^ ]+")
_PLAIN = re.compile(r"[!-*,-<>-\[\]-~]")


def one_line(octets: bytes | str, limit: int = TOKEN) -> str:
    """Foreign octets as one line of `limit` octets at most, spaces kept: "?" for what cannot be
    printed, \\xHH for what is not UTF-8."""
    text = octets.decode("utf-8", "backslashreplace") if isinstance(octets, bytes) else octets
    shown = "".join(each if each.isprintable() else "?" for each in text[:limit])
    return shown.encode("utf-8")[:limit].decode("utf-8", "ignore").strip()


def plain(text: bytes | str, limit: int = TOKEN) -> str:
    """The same in ASCII."""
    escaped = one_line(text, limit).encode("ascii", "backslashreplace")
    return escaped[:limit].decode("ascii").strip()


def embedded(text: str) -> str:
    """An internationalized address in ASCII: utf-8-addr-xtext (RFC 6533 section 3)."""
    return "".join(each if _PLAIN.match(each) else f"\\x{{{ord(each):02X}}}" for each in text)


def is_utf8(octets: bytes) -> bool:
    """Whether these are well-formed UTF-8."""
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def fold(field: str) -> bytes:
    """A field with its CRLF, folded before spaces to 76 octets where it has them; taking out
    the folds gives the field again."""
    lines: list[bytes] = []
    for word in _WORD.findall(field):
        octets = word.encode("utf-8")
        if lines and (len(lines[-1]) + len(octets) <= WIDTH or not word.startswith(" ")):
            lines[-1] += octets
        else:
            lines.append(octets)
    return b"\r\n".join(lines) + b"\r\n"


def quoted_printable(octets: bytes) -> bytes:
    """Any octets in lines of 76 ASCII characters (RFC 2045 section 6.7); CRLF stays a line end."""
    lines = octets.split(b"\r\n")
    return b"\r\n".join(
        binascii.b2a_qp(each, istext=False).replace(b"\n", b"\r\n") for each in lines
    )
