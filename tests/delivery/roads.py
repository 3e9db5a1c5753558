"""Routes as the settings would make them, from a default and exceptions by domain."""

from __future__ import annotations

from collections.abc import Mapping

from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Maps as SomeMaps
from smtpgw.address.resolve import ResolveOptions, Resolver
from smtpgw.address.standard import Standard, StandardOptions
from smtpgw.delivery import router
from smtpgw.delivery.outcome import Destination
from smtpgw.routes import RouteOptions, Routes, Transport
from smtpgw.table_room import Given
from smtpgw.tables.maps import Maps


def routes(
    default: Destination,
    exceptions: Mapping[str, Destination] | None = None,
    *,
    refuse: frozenset[str] = frozenset(),
    origin: str = "gw.example",
    **more: SomeMaps,
) -> Routes:
    """`more` are tables of :class:`ResolveOptions`."""
    table = Given("test", {key: str(value) for key, value in (exceptions or {}).items()})
    tables: dict[str, SomeMaps] = {"transport_maps": Maps([table]), **more}
    standard = Standard(StandardOptions(origin.encode()))
    options = ResolveOptions(
        myhostname=origin.encode(),
        default_transport=str(default).encode(),
        **tables,  # type: ignore[arg-type] # only fields of tables are given
    )
    transports = {each: Transport(each) for each in router.TRANSPORTS}
    return Routes(Resolver(options, standard, Delimiter(b"")), RouteOptions(transports, refuse))
