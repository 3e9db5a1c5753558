"""Whether anybody here is known by an address (reject_unlisted_recipient, reject_unlisted_sender).

An address that canonical or virtual alias tables have is known, what resolves to the error or
retry transport is not.  Otherwise its class has a list: local_recipient_maps,
virtual_mailbox_maps or relay_recipient_maps; a class whose list is not given takes every address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from smtpgw.address.find import Finder, Maps
from smtpgw.address.resolve import AddressClass, Resolved

_CODE = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s+")
TABLES: Mapping[AddressClass, str] = MappingProxyType({
    AddressClass.LOCAL: "local recipient table",
    AddressClass.VIRTUAL_MAILBOX: "virtual mailbox table",
    AddressClass.RELAY: "relay recipient table",
})  # fmt: skip
"""What the list of a class is called in a refusal."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody is known by it, or mail for it goes nowhere; `code` 450 says: not now.
    `text` is the reply's: `User unknown in local recipient table`."""

    code: int
    enhanced: str
    text: str


@dataclass(frozen=True, slots=True)
class KnownOptions:
    """`before`: recipient_canonical_maps or sender_canonical_maps, canonical_maps,
    virtual_alias_maps.  `lists`: the list of each class that has one.
    `show_user_unknown_table_name` (postconf(5))."""

    before: Sequence[Maps] = ()
    lists: Mapping[AddressClass, Maps] = field(default_factory=dict)
    show_user_unknown_table_name: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """The lists, ready for use."""

    options: KnownOptions
    finder: Finder

    async def check(self, resolved: Resolved) -> Unknown | None:
        """Why nobody is known by a resolved address, if that is so.  Raises Unavailable."""
        for each in self.options.before:
            if await self.finder.find(each, resolved.recipient):
                return None
        if resolved.transport == b"error":
            return _error(resolved.nexthop.decode("utf-8", "replace"))
        if resolved.transport == b"retry":
            return Unknown(450, "4.1.1", resolved.nexthop.decode("utf-8", "replace"))
        kind = resolved.address_class
        maps = self.options.lists.get(kind)
        if maps is None or await self.finder.find(maps, resolved.recipient):
            return None
        shown = f" in {TABLES[kind]}" if self.options.show_user_unknown_table_name else ""
        return Unknown(550, "5.1.1", f"User unknown{shown}")


def _error(text: str) -> Unknown:
    """The text of an error: transport, which may begin with an enhanced status code."""
    found = _CODE.match(text)
    return Unknown(550, found[1], text[found.end() :]) if found else Unknown(550, "5.1.1", text)
