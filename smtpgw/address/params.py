"""The ESMTP parameters of MAIL and RCPT, as values.

SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH (RFC 4954 section 5),
RET, ENVID, NOTIFY and ORCPT (RFC 3461).  A parameter whose extension was not announced,
and any other, is refused with 555; a bad value, an odd combination and a duplicate with 501.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

MAX_SIZE_DIGITS = 20
"""Digits of a SIZE value (RFC 1870 section 4)."""

MAX_ENVID = 100
"""Octets of an ENVID as sent (RFC 3461 section 4.4)."""

MAX_ORCPT = 500
"""Octets of an ORCPT as sent (RFC 3461 section 4.2)."""

MAX_AUTH = 500
"""Octets of an AUTH as sent (RFC 4954 section 3)."""

Value = TypeVar("Value")


class ParamError(Exception):
    """The parameters must be refused with this reply code and enhanced status code."""

    def __init__(self, code: int, enhanced: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.enhanced = enhanced
        self.reason = reason


@dataclass(frozen=True, slots=True)
class MailParams:
    """What MAIL said.  `size` is octets, `envid` is decoded, and so is
    `auth`, who handed the mail in first, empty for `<>`; `args` are as sent."""

    size: int | None = None
    body: str | None = None
    smtputf8: bool = False
    ret: str | None = None
    envid: bytes | None = None
    auth: bytes | None = None
    args: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class RcptParams:
    """What RCPT said.  `notify` is None where NOTIFY was not given; `orcpt` is the
    address type in lower case and the decoded address; `args` are as sent."""

    notify: frozenset[str] | None = None
    orcpt: tuple[str, bytes] | None = None
    args: tuple[bytes, ...] = ()


MAIL_KEYS: Mapping[str, str] = {
    "SIZE": "SIZE",
    "BODY": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET": "DSN",
    "ENVID": "DSN",
    "AUTH": "AUTH",
}
"""Each MAIL parameter, and the extension that must have been announced for it."""

RCPT_KEYS: Mapping[str, str] = {"NOTIFY": "DSN", "ORCPT": "DSN"}
"""Each RCPT parameter, and the extension that must have been announced for it."""

_KEY = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*\Z")
_VALUE = re.compile(rb"[!-<>-~\x80-\xff]+\Z")
_ORCPT_VALUE = re.compile(rb"[!-~\x80-\xff]+\Z")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z")
_PRINTABLE = re.compile(rb"[ -~]+\Z")
_TYPE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z")


_NO_MAIL_PARAMS, _NO_RCPT_PARAMS = MailParams(), RcptParams()


def parse_mail_params(octets: bytes, announced: Collection[str]) -> MailParams:
    """The parameters after a reverse-path.  Raises ParamError."""
    if not octets:
        return _NO_MAIL_PARAMS
    args = _words(octets)
    found = _split(args, MAIL_KEYS, announced)
    return MailParams(
        size=_read(found, "SIZE", _size),
        body=_read(found, "BODY", _body),
        smtputf8=_flag(found, "SMTPUTF8"),
        ret=_read(found, "RET", _ret),
        envid=_read(found, "ENVID", _envid),
        auth=_read(found, "AUTH", _auth),
        args=args,
    )


def parse_rcpt_params(octets: bytes, announced: Collection[str], *, utf8: bool) -> RcptParams:
    """The parameters after a forward-path; `utf8` when the mail is an SMTPUTF8 one.

    Raises ParamError.
    """
    if not octets:
        return _NO_RCPT_PARAMS
    args = _words(octets)
    found = _split(args, RCPT_KEYS, announced)
    return RcptParams(
        notify=_read(found, "NOTIFY", _notify),
        orcpt=_read(found, "ORCPT", lambda value: _orcpt(value, utf8)),
        args=args,
    )


def _words(octets: bytes) -> tuple[bytes, ...]:
    """Only spaces and tabs part parameters; any other control octet is an error later."""
    return tuple(each for each in octets.replace(b"\t", b" ").split(b" ") if each)


def _split(
    args: tuple[bytes, ...], known: Mapping[str, str], announced: Collection[str]
) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for each in args:
        name, equals, value = each.partition(b"=")
        if _KEY.match(name) is None:
            raise ParamError(501, "5.5.4", "bad parameter syntax")
        key = name.decode("ascii").upper()
        if known.get(key) not in announced:
            raise ParamError(555, "5.5.4", f"unsupported parameter {key[:40]}")
        if key in found:
            raise ParamError(501, "5.5.4", f"{key} given twice")
        pattern = _ORCPT_VALUE if key == "ORCPT" else _VALUE
        if equals and pattern.match(value) is None:
            raise ParamError(501, "5.5.4", f"bad {key} value")
        found[key] = value if equals else None
    return found


def _read(
    found: Mapping[str, bytes | None], key: str, read: Callable[[bytes], Value]
) -> Value | None:
    if key not in found:
        return None
    value = found[key]
    if value is None:
        raise ParamError(501, "5.5.4", f"{key} needs a value")
    try:
        return read(value)
    except ValueError:
        raise ParamError(501, "5.5.4", f"bad {key} value") from None


def _flag(found: Mapping[str, bytes | None], key: str) -> bool:
    if found.get(key) is not None:
        raise ParamError(501, "5.5.4", f"{key} takes no value")
    return key in found


def _size(value: bytes) -> int:
    if not value.isdigit() or len(value) > MAX_SIZE_DIGITS:
        raise ValueError
    return int(value)


def _body(value: bytes) -> str:
    body = value.decode("ascii").upper()
    if body == "BINARYMIME":
        raise ParamError(555, "5.5.4", "BODY=BINARYMIME is not supported")
    return _one_of(body, ("7BIT", "8BITMIME"))


def _ret(value: bytes) -> str:
    return _one_of(value.decode("ascii").upper(), ("FULL", "HDRS"))


def _one_of(value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError
    return value


def _envid(value: bytes) -> bytes:
    if len(value) > MAX_ENVID:
        raise ValueError
    return _printable(decode_xtext(value))


def _auth(value: bytes) -> bytes:
    if value == b"<>":
        return b""
    if len(value) > MAX_AUTH:
        raise ValueError
    return _printable(decode_xtext(value))


def _notify(value: bytes) -> frozenset[str]:
    words = value.decode("ascii").upper().split(",")
    chosen = frozenset(_one_of(each, ("NEVER", "SUCCESS", "FAILURE", "DELAY")) for each in words)
    if len(chosen) != len(words) or ("NEVER" in chosen and len(words) > 1):
        raise ValueError
    return chosen


def _orcpt(value: bytes, utf8: bool) -> tuple[str, bytes]:
    kind, semicolon, address = value.partition(b";")
    if not semicolon or len(value) > MAX_ORCPT or _TYPE.match(kind) is None:
        raise ValueError
    if kind.lower() == b"utf-8" and not address.isascii():
        if not utf8:
            raise ValueError
        address.decode("utf-8")  # utf-8-addr-unitext, RFC 6533 section 3
        return "utf-8", address
    return kind.decode("ascii").lower(), _printable(decode_xtext(address))


def decode_xtext(value: bytes) -> bytes:
    """The octets that xtext stands for (RFC 3461 section 4).  Raises ValueError."""
    if _XTEXT.match(value) is None:
        raise ValueError("not xtext")
    return re.sub(rb"\+([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), value)


def encode_xtext(octets: bytes) -> bytes:
    """The xtext that stands for `octets`."""
    return re.sub(rb"[^!-*,-<>-~]", lambda match: b"+%02X" % match[0][0], octets)


def _printable(octets: bytes) -> bytes:
    """Refuse what could become a line of its own in a delivery report."""
    if _PRINTABLE.match(octets) is None:
        raise ValueError("control or 8-bit octets")
    return octets
