"""What the name service says of who connected: a value (Postfix's smtpd_peer(3))."""

from __future__ import annotations

import enum
from dataclasses import dataclass

UNKNOWN_NAME = b"unknown"
"""The client's name where none is verified (Postfix's word for it)."""


class NameStatus(enum.IntEnum):
    """What a lookup came to, in Postfix's codes.

    OK: found, and for the verified name confirmed.  TEMP: it could not be known now.  PERM: the
    address has no name.  FORGED: it has one, which has not this address.
    """

    OK = 2
    TEMP = 4
    PERM = 5
    FORGED = 6

    @property
    def macro(self) -> bytes:
        """The milter macro {client_resolve}."""
        return _MACROS[self]


_MACROS = {each: each.name.encode() for each in NameStatus} | {NameStatus.PERM: b"FAIL"}


@dataclass(frozen=True, slots=True)
class PeerName:
    """`name` is verified: the address has it, and it has the address; `unknown` otherwise, for
    `reason`.  `reverse` is the name of the address that nobody has confirmed."""

    name: bytes = UNKNOWN_NAME
    reverse: bytes = UNKNOWN_NAME
    status: NameStatus = NameStatus.PERM
    reverse_status: NameStatus = NameStatus.PERM
    reason: str = ""

    @property
    def macros(self) -> dict[str, bytes]:
        """The milter macros that say it; {client_name} and `_` follow from these."""
        return {"client_ptr": self.reverse, "client_resolve": self.status.macro}


LOCAL = PeerName(b"localhost", b"localhost", NameStatus.OK, NameStatus.OK)
"""Who comes by a UNIX socket."""
