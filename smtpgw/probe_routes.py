"""Where probes go, if not where mail goes (address_verify_*_transport, _relayhost, _maps)."""

from __future__ import annotations

from dataclasses import replace

from smtpgw.address.find import Maps
from smtpgw.address.resolve import Resolver
from smtpgw.table_room import TableRoom


def resolver(room: TableRoom, usual: Resolver) -> Resolver:
    """The resolver of probes: as the usual one where no setting says otherwise."""
    options = usual.options

    def transport(name: str, otherwise: bytes) -> bytes:
        return room.text(f"address_verify_{name}").encode() or otherwise

    def maps(name: str, otherwise: Maps | None) -> Maps | None:
        own = f"address_verify_{name}"
        return otherwise if room.text(own) == room.text(name) else room.maps(own)

    return replace(
        usual,
        options=replace(
            options,
            local_transport=transport("local_transport", options.local_transport),
            virtual_transport=transport("virtual_transport", options.virtual_transport),
            relay_transport=transport("relay_transport", options.relay_transport),
            default_transport=transport("default_transport", options.default_transport),
            relayhost=room.text("address_verify_relayhost").encode(),
            transport_maps=maps("transport_maps", options.transport_maps),
            sender_dependent_relayhost_maps=maps(
                "sender_dependent_relayhost_maps", options.sender_dependent_relayhost_maps
            ),
            sender_dependent_default_transport_maps=maps(
                "sender_dependent_default_transport_maps",
                options.sender_dependent_default_transport_maps,
            ),
        ),
    )
