"""Whose mail it is, for a signature: the one address that From, or a field before it, has."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from milterd.core.mail import Mail
from milterd.filters.mailbox import AddressError, Mailbox, mailboxes

_SHORT = 256
"""Octets of a value that is remembered with what it says."""


@dataclass(frozen=True, slots=True)
class NotSigned:
    """Why there is no signature."""

    why: str
    detail: str = ""


OUR_FAULT = ("table-unavailable", "key-unavailable")
"""Why a mail is not signed that could be later on."""


@dataclass(frozen=True, slots=True)
class Author:
    """The address that decides who signs.  `domain` is in lower case and in ASCII."""

    local: bytes
    domain: str

    @property
    def address(self) -> str:
        """Local part and domain, for tables; octets beyond ASCII as surrogates."""
        return f"{self.local.decode('utf-8', 'surrogateescape')}@{self.domain}"


def author_of(mail: Mail, sender_headers: tuple[bytes, ...] = (b"From",)) -> Author | NotSigned:
    """Read the author, or say why none is sure.

    From always has to be one field with one address (RFC 6376 section 5.1 leaves the choice
    to the signer); where `sender_headers` names others, the first that is there decides.
    """
    written = _one(mail, b"From")
    for name in sender_headers:
        if name.lower() == b"from" or isinstance(written, NotSigned):
            return written
        if mail.values(name):
            return _one(mail, name)
    return written


def _one(mail: Mail, name: bytes) -> Author | NotSigned:
    field, values = name.decode("ascii"), mail.values(name)
    if len(values) != 1:
        word = field.lower()
        why = f"no-{word}" if not values else f"several-{word}"
        return NotSigned(why, f"{len(values)} {field} fields")
    value = values[0]
    return _read(value, field) if len(value) > _SHORT else _read_again(value, field)


def _read(value: bytes, field: str) -> Author | NotSigned:
    word = field.lower()
    try:
        found: tuple[Mailbox, ...] = mailboxes(value)
    except AddressError as error:
        return NotSigned(f"unreadable-{word}", str(error))
    if len(found) != 1:
        return NotSigned("several-authors", f"{len(found)} addresses in {field}")
    domain = found[0].domain
    if not domain.isascii():
        return NotSigned(f"unreadable-{word}", "the domain is not in ASCII (RFC 5890 A-labels)")
    return Author(found[0].local, domain.decode("ascii"))


_read_again = functools.lru_cache(256)(_read)  # most authors write more than once
