"""Whether anybody here is known by an address (reject_unlisted_recipient, reject_unlisted_sender).

An address that canonical or virtual alias tables have is known, what resolves to the error or
retry transport is not.  Otherwise its class has a list: local_recipient_maps,
virtual_mailbox_maps or relay_recipient_maps; a class whose list is not given takes every address.
Of the local class, postmaster, mailer-daemon and double-bounce are known to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from smtpgw.address.find import Finder, Maps
from smtpgw.address.remembered import Changes, watched
from smtpgw.address.resolve import AddressClass, Resolved

_CODE = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s+")
TABLES: Mapping[AddressClass, str] = MappingProxyType({
    AddressClass.LOCAL: "local recipient table",
    AddressClass.VIRTUAL_MAILBOX: "virtual mailbox table",
    AddressClass.RELAY: "relay recipient table",
})  # fmt: skip
"""What the list of a class is called in a refusal."""
LISTS: Mapping[AddressClass, str] = MappingProxyType({
    AddressClass.LOCAL: "local_recipient_maps",
    AddressClass.VIRTUAL_MAILBOX: "virtual_mailbox_maps",
    AddressClass.RELAY: "relay_recipient_maps",
})  # fmt: skip
"""What it is called in the settings."""
_OF_RECIPIENTS = {".1.7": ".1.3", ".1.8": ".1.2"} | {f".1.{n}": f".1.{n}" for n in range(7)}
_OF_SENDERS = {f".1.{n}": ".1.7" for n in (1, 3, 4, 6, 7)} | {".1.2": ".1.8", ".1.8": ".1.8"}
"""Statuses of addresses: one of a recipient is not one of a sender (RFC 3463 section 3.2), though
a table may say either."""
_ALWAYS = (b"postmaster", b"mailer-daemon", b"double-bounce")


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody is known by it, or mail for it goes nowhere; `code` 450 says: not now.
    `text` is the reply's: `User unknown in local recipient table`.  `rule` is the parameter
    whose tables have it not; empty where the way to it, in Resolved.steps, says all."""

    code: int
    enhanced: str
    text: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class KnownOptions:
    """`before`: recipient_canonical_maps or sender_canonical_maps, canonical_maps,
    virtual_alias_maps.  `lists`: the list of each class that has one.
    `show_user_unknown_table_name` (postconf(5)).  `senders`: the addresses are senders."""

    before: Sequence[Maps] = ()
    lists: Mapping[AddressClass, Maps] = field(default_factory=dict)
    show_user_unknown_table_name: bool = True
    senders: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """The lists, ready for use."""

    options: KnownOptions
    finder: Finder

    def changes(self) -> tuple[Changes, ...] | None:
        """What to look at to know that the same are known; None if only asking tells."""
        return watched((*self.options.before, *self.options.lists.values()))

    async def check(self, resolved: Resolved) -> Unknown | None:
        """Why nobody is known by a resolved address, if that is so.  Raises Unavailable."""
        for each in self.options.before:
            if await self.finder.find(each, resolved.recipient):
                return None
        if resolved.transport == b"error":
            return self._undeliverable(550, _shown(resolved.nexthop))
        if resolved.transport == b"retry":
            return self._undeliverable(450, _shown(resolved.nexthop))
        kind = resolved.address_class
        maps = self.options.lists.get(kind)
        if maps is None or _everybodys(resolved):
            return None
        if await self.finder.find(maps, resolved.recipient):
            return None
        shown = f" in {TABLES[kind]}" if self.options.show_user_unknown_table_name else ""
        enhanced = "5.1.0" if self.options.senders else "5.1.1"
        return Unknown(550, enhanced, f"User unknown{shown}", LISTS[kind])

    def _undeliverable(self, code: int, text: str) -> Unknown:
        """The text of an error: or retry: transport, which may begin with an enhanced status
        code; its first digit is the reply's in any case (RFC 2034 section 4)."""
        found = _CODE.match(text)
        senders = self.options.senders
        detail = found[1][1:] if found else ".1.0" if senders else ".1.1"
        if detail.startswith(".1."):
            detail = (_OF_SENDERS if senders else _OF_RECIPIENTS).get(detail, ".1.0")
        return Unknown(code, f"{code // 100}{detail}", text[found.end() :] if found else text)


def _everybodys(resolved: Resolved) -> bool:
    """An address that mail systems write to, whoever is listed."""
    local = resolved.recipient.rpartition(b"@")[0]
    return resolved.address_class is AddressClass.LOCAL and local.lower() in _ALWAYS


def _shown(octets: bytes) -> str:
    """Text of a table as a reply may have it."""
    text = octets.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)
