"""The DSN parameters of a queued envelope: NOTIFY, ORCPT, RET, ENVID (RFC 3461 section 4).

The edge refuses bad ones, but a milter or a mail that was handed in may bring others: what
cannot be decoded is taken as it stands, and nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from smtpgw.address.params import decode_xtext

_POINT = re.compile(r"\\x\{([0-9A-F]{1,6})\}")


def parameter(args: Iterable[bytes], name: bytes) -> bytes | None:
    """The value of an ESMTP parameter, None where it was not given."""
    for each in args:
        key, _, value = each.partition(b"=")
        if key.upper() == name:
            return value
    return None


def notify(args: Iterable[bytes]) -> frozenset[bytes] | None:
    """The words of NOTIFY in capitals, None where it was not given."""
    value = parameter(args, b"NOTIFY")
    return None if value is None else frozenset(value.upper().split(b","))


def headers_only(args: Iterable[bytes]) -> bool:
    """Whether RET=HDRS was given."""
    return (parameter(args, b"RET") or b"").upper() == b"HDRS"


def envelope_id(args: Iterable[bytes]) -> bytes | None:
    """ENVID, decoded."""
    value = parameter(args, b"ENVID")
    return None if value is None else _decoded(value)


def original_recipient(args: Iterable[bytes]) -> tuple[bytes, bytes] | None:
    """The type and the decoded address of ORCPT; an address of type utf-8 in UTF-8
    (RFC 6533 section 3)."""
    value = parameter(args, b"ORCPT")
    if value is None:
        return None
    kind, _, address = value.partition(b";")
    if kind.lower() == b"utf-8":
        return kind, _unitext(address)
    return kind, _decoded(address)


def _decoded(value: bytes) -> bytes:
    try:
        return decode_xtext(value)
    except ValueError:
        return value


def _unitext(address: bytes) -> bytes:
    try:
        return _POINT.sub(lambda match: _point(match[1]), address.decode("utf-8")).encode("utf-8")
    except ValueError:
        return address


def _point(digits: str) -> str:
    """Raises ValueError for a number that is no character, UnicodeEncodeError later for half of
    one."""
    return chr(int(digits, 16))
