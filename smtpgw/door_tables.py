"""The tables and lists that a listener asks before any policy is asked: certificates by name,
what EHLO announces, and whose word counts for another client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from milterd.base.toml_file import Problem
from smtpgw import parameters
from smtpgw.address.clients import ClientList
from smtpgw.config import Listener, Smtpgw
from smtpgw.table_room import TableRoom
from smtpgw.tables import spec
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import LocalTable

Find = Callable[[bytes], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class DoorTables:
    """Each is None, or empty, where its setting is.  `server_names` answers at once."""

    server_names: Callable[[bytes], bytes | None] | None = None
    ehlo_discard: Find | None = None
    command_filter: Find | None = None
    xclient: ClientList = field(default_factory=ClientList)
    xforward: ClientList = field(default_factory=ClientList)
    upstream: ClientList = field(default_factory=ClientList)


NO_TABLES = DoorTables()
"""None at all."""


def open_door(settings: Smtpgw, listener: Listener, room: TableRoom) -> DoorTables:
    """Open what this listener needs; what cannot be opened is among the room's problems."""
    return _Opener(settings, listener, room).door()


class _Opener:
    def __init__(self, settings: Smtpgw, listener: Listener, room: TableRoom) -> None:
        self._values = settings.parameters(settings.reception(listener))
        self._room = room

    def door(self) -> DoorTables:
        return DoorTables(
            _asked_at_once(self._maps("tls_server_sni_maps"), self._room),
            _found_by(self._maps("smtpd_discard_ehlo_keyword_address_maps")),
            _found_by(self._maps("smtpd_command_filter")),
            self._clients("smtpd_authorized_xclient_hosts"),
            self._clients("smtpd_authorized_xforward_hosts"),
            self._clients("smtpd_upstream_proxy_hosts"),
        )

    def _maps(self, name: str) -> Maps | None:
        return self._room.open(name, spec.split(self._text(name)))

    def _clients(self, name: str) -> ClientList:
        return self._room.client_list(name, self._text(name))

    def _text(self, name: str) -> str:
        try:
            return parameters.expand(f"${name}", self._values)
        except parameters.ParameterError as error:
            problem = Problem("settings", 0, f"smtpgw.{name}", error.found, error.expected)
            self._room.problems.append(problem)
            return ""


def _found_by(maps: Maps | None) -> Find | None:
    if maps is None:
        return None

    async def find(key: bytes) -> bytes | None:
        found = await maps.find(key)
        return None if found is None else found.value

    return find


def _asked_at_once(maps: Maps | None, room: TableRoom) -> Callable[[bytes], bytes | None] | None:
    if maps is None:
        return None
    local: list[LocalTable] = []
    for each in maps.tables:
        if isinstance(each, LocalTable):
            local.append(each)
        else:
            key, wanted = "smtpgw.tls_server_sni_maps", "tables whose answers are in memory"
            room.problems.append(Problem("settings", 0, key, each.name, wanted))

    def find(key: bytes) -> bytes | None:
        for each in local:
            found = each.find_now(key)
            if found is not None:
                return found.value
        return None

    return find
