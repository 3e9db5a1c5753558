"""The lists that screening asks of a client: who may pass, where, and what no client says."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from structlog.typing import FilteringBoundLogger

from smtpgw.address.clients import ClientList
from smtpgw.screen.early import Access
from smtpgw.tables import spec
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import LocalTable, Unavailable

WORDS = {each.value: each for each in Access}


async def always(_address: str) -> bool:
    """Clients become known at every address of ours."""
    return True


@dataclass(frozen=True, slots=True)
class Interfaces:
    """postscreen_allowlist_interfaces.  A table that cannot answer is no veto."""

    those: ClientList
    log: FilteringBoundLogger

    async def ask(self, address: str) -> bool:
        """Whether clients become known at this address of ours."""
        try:
            return bool(await self.those.match(address.encode()))
        except Unavailable as error:
            self.log.warning("screen.interfaces", table=error.name, reason=error.reason)
            return True


@dataclass(frozen=True, slots=True)
class Forbidden:
    """postscreen_forbidden_commands."""

    words: frozenset[bytes]
    tables: tuple[LocalTable, ...]

    def has(self, word: bytes) -> bool:
        """Whether it is one.  A table that cannot answer forbids nothing."""
        if word.lower() in self.words:
            return True
        try:
            return any(each.find_now(word) is not None for each in self.tables)
        except Unavailable:
            return False


@dataclass(frozen=True, slots=True)
class AccessList:
    """postscreen_access_list: the steps, the first that decides wins.  What a table says is a
    list of the same kind, without tables in it."""

    steps: list[Access | ClientList | Maps]
    mynetworks: ClientList
    log: FilteringBoundLogger

    async def ask(self, address: str) -> Access:
        """What it says of an address.  A table that cannot answer ends it: the client is
        tested."""
        try:
            for each in self.steps:
                said = await self._step(each, address)
                if said is not None:
                    return said
        except Unavailable as error:
            self.log.warning("screen.access", table=error.name, reason=error.reason)
        return Access.DUNNO

    async def _step(self, step: Access | ClientList | Maps, address: str) -> Access | None:
        if isinstance(step, Access):
            return step
        if isinstance(step, ClientList):
            return Access.PERMIT if await step.match(address.encode()) else None
        hit = await step.find(str(ip_address(address)).encode())
        if hit is None:
            return None
        for each in spec.split(hit.value.decode("ascii", "replace").lower()):
            if each == "permit_mynetworks":
                if await self.mynetworks.match(address.encode()):
                    return Access.PERMIT
            elif each == "dunno":
                return None  # of the table; the list goes on
            elif each in WORDS:
                return WORDS[each]
            else:
                raise Unavailable(hit.where, f"{each!a}: expected permit, reject or dunno")
        return None
