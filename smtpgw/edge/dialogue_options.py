"""What may be said in a dialogue, under Postfix's names (smtpd(8), lmtp as in RFC 2033)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from smtpgw.address.clients import ClientList

Find = Callable[[bytes], Awaitable[bytes | None]]
"""Asks tables.  Raises :class:`smtpgw.tables.table.Unavailable`."""


@dataclass(frozen=True, slots=True)
class DialogueOptions:
    """`lmtp`: LHLO, and an answer for each recipient (RFC 2033).  `vrfy`, `smtputf8`: whether
    they are offered.  `forbidden` are commands that close the connection, `noop` such that do
    nothing.  `discard` are EHLO keywords that are not announced, or those that `discard_for`
    has for the client's address.  `command_filter` gives another line for a command line.
    `xclient` and `xforward` are the clients that may use these commands.
    """

    lmtp: bool = False
    vrfy: bool = True
    smtputf8: bool = True
    forbidden: frozenset[str] = frozenset({"CONNECT", "GET", "POST"})
    noop: frozenset[str] = frozenset()
    discard: frozenset[str] = frozenset()
    discard_for: Find | None = None
    command_filter: Find | None = None
    xclient: ClientList = field(default_factory=ClientList)
    xforward: ClientList = field(default_factory=ClientList)


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """The PROXY protocol comes first: from whom it is believed, and seconds until it is there."""

    trusted: ClientList
    patience: float = 5.0
