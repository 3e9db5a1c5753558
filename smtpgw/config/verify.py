"""The settings of [smtpgw] about address verification (verify(8), ADDRESS_VERIFICATION_README)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from milterd.base import settings
from milterd.base.fields import VERBATIM, Days, Duration, Hours


class Polls(settings.Table):
    """How long a client waits for a probe."""

    address_verify_poll_count: int = Field(
        default=3,
        ge=1,
        description="how often the cache of addresses is asked for one answer; with 1 a client is "
        "told 450 at once and has to come again",
    )
    address_verify_poll_delay: Duration = Field(
        default=3.0, gt=0, description="time between two of these questions"
    )


class Verification(settings.Table):
    """Which addresses are good, how that is found out and for how long it counts."""

    address_verify_map: str = Field(
        default="verify.sqlite",
        description="file with what is known of addresses, which all workers share; a relative "
        "path is below the queue's directory; empty keeps it in the memory of each worker",
        json_schema_extra={VERBATIM: True},
    )
    address_verify_positive_expire_time: Days = Field(
        default=31 * 86400.0, gt=0, description="when a good address is known no more"
    )
    address_verify_positive_refresh_time: Days = Field(
        default=7 * 86400.0,
        gt=0,
        description="when a good address is probed again; meanwhile it counts as good",
    )
    address_verify_negative_expire_time: Days = Field(
        default=3 * 86400.0, gt=0, description="when any other address is known no more"
    )
    address_verify_negative_refresh_time: Hours = Field(
        default=3 * 3600.0, gt=0, description="when an address that was refused is probed again"
    )
    address_verify_deferred_refresh_time: Hours | None = Field(
        default=None,
        gt=0,
        description="when an address is probed again whose host said 4xx or could not be reached; "
        "without this key, address_verify_negative_refresh_time",
        examples=["5m"],
    )
    address_verify_negative_cache: bool = Field(
        default=True,
        description="keep addresses that are not good too; without, each question makes a probe",
    )
    address_verify_cache_cleanup_interval: Hours = Field(
        default=12 * 3600.0, ge=0, description="time between two cleanings of the file; 0 for none"
    )
    address_verify_sender: str = Field(
        default="$double_bounce_sender",
        description='sender of probes; empty or "<>" is the null sender.  Mail to it is refused '
        "for nothing, so that two servers may probe each other",
        json_schema_extra={VERBATIM: True},
    )
    address_verify_sender_ttl: Duration = Field(
        default=0.0,
        ge=0,
        description="how long the sender of probes is the same: its local part ends with the "
        "number of the period; 0 for ever",
    )
    address_verify_local_transport: str = Field(
        default="$local_transport", description="local_transport of probes"
    )
    address_verify_virtual_transport: str = Field(
        default="$virtual_transport", description="virtual_transport of probes"
    )
    address_verify_relay_transport: str = Field(
        default="$relay_transport", description="relay_transport of probes"
    )
    address_verify_default_transport: str = Field(
        default="$default_transport", description="default_transport of probes"
    )
    address_verify_relayhost: str = Field(
        default="$relayhost",
        description="relayhost of probes; empty asks the hosts of each domain themselves",
    )
    address_verify_transport_maps: str = Field(
        default="$transport_maps", description="transport_maps of probes"
    )
    address_verify_sender_dependent_relayhost_maps: str = Field(
        default="$sender_dependent_relayhost_maps",
        description="sender_dependent_relayhost_maps of probes",
    )
    address_verify_sender_dependent_default_transport_maps: str = Field(
        default="$sender_dependent_default_transport_maps",
        description="sender_dependent_default_transport_maps of probes",
    )
    address_verify_process_limit: int = Field(
        default=100, ge=1, description="probes of one worker at once"
    )
    address_verify_primary_down: Literal["defer", "accept", "cached"] = Field(
        default="defer",
        description='what an address is whose hosts cannot be reached: "defer" tells the client '
        '450, "accept" takes it, "cached" takes it if it was good within twice '
        "address_verify_positive_expire_time",
    )
    address_verify_cache_failure: Literal["defer", "accept"] = Field(
        default="defer",
        description="what an address is while the file cannot be used",
    )

    @field_validator("address_verify_map")
    @classmethod
    def _a_file(cls, value: str) -> str:
        kind, colon, _ = value.partition(":")
        if colon and kind.isalnum():
            raise ValueError("expected the path of a file, without a type such as btree:")
        return value
