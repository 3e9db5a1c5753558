"""The tables that a listener asks before any policy is asked: certificates by name, EHLO by
client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from milterd.base.toml_file import Problem
from smtpgw import parameters
from smtpgw.config import Listener, Smtpgw
from smtpgw.table_room import TableRoom
from smtpgw.tables import spec
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import LocalTable


@dataclass(frozen=True, slots=True)
class DoorTables:
    """`server_names` asks tls_server_sni_maps; None where there are none."""

    server_names: Callable[[bytes], bytes | None] | None = None


NO_TABLES = DoorTables()
"""None at all."""


def open_door(settings: Smtpgw, listener: Listener, room: TableRoom) -> DoorTables:
    """Open what this listener needs; what cannot be opened is among the room's problems."""
    values = settings.parameters(settings.reception(listener))

    def opened(name: str) -> Maps | None:
        try:
            text = parameters.expand(f"${name}", values)
        except parameters.ParameterError as error:
            room.problems.append(
                Problem("settings", 0, f"smtpgw.{name}", error.found, error.expected)
            )
            return None
        return room.open(name, spec.split(text))

    return DoorTables(_asked_at_once(opened("tls_server_sni_maps"), room))


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
