"""SASLprep (RFC 4013): the same password typed on two machines becomes the same octets."""

from __future__ import annotations

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """The prepared text.  Raises ValueError for one that the profile prohibits."""
    spaced = "".join(" " if stringprep.in_table_c12(each) else each for each in text)
    kept = "".join(each for each in spaced if not stringprep.in_table_b1(each))
    found = unicodedata.normalize("NFKC", kept)
    if any(test(each) for each in found for test in _PROHIBITED):
        raise ValueError("a character that may not be in it")
    _check_directions(found)
    return found


def _check_directions(text: str) -> None:
    """RFC 3454 section 6: right-to-left text stands alone."""
    if not any(stringprep.in_table_d1(each) for each in text):
        return
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    if not ends or any(stringprep.in_table_d2(each) for each in text):
        raise ValueError("text of both directions")


def password_octets(password: bytes) -> bytes:
    """A password as it is hashed: prepared, or as it came where it cannot be."""
    try:
        return saslprep(password.decode("utf-8")).encode("utf-8")
    except ValueError:
        return password
