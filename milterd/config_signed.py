"""What the tables of filters that change mail say about its signatures."""

from __future__ import annotations

from pydantic import Field

from milterd.base.fields import Duration
from milterd.base.settings import Table
from milterd.config_dkim import NameServer
from milterd.filters.dkim_verify import VerifyOptions
from milterd.filters.standing import StandingOptions
from milterd.ports.dkim_dns import DnsOptions, parse_server


class SignedSettings(Table):
    """Which signatures of a mail are good, and so kept whole (docs/signatures.md)."""

    check_signatures: bool = Field(
        default=True,
        description="before a change is left out for a DKIM signature, see whether that is good; "
        "false takes every one for good, and asks nobody",
    )
    signature_limit: int = Field(
        default=10,
        ge=1,
        le=50,
        description="signatures of a mail that are checked; the others count as good",
    )
    nameservers: tuple[NameServer, ...] = Field(
        default=(), description="asked for their keys, in this order; none means /etc/resolv.conf"
    )
    dns_timeout: Duration = Field(default=5.0, gt=0, description="for one key")
    dns_time: Duration = Field(
        default=5.0, gt=0, description="for all keys of a mail; later the signature counts as good"
    )
    threads: int = Field(
        default=4,
        ge=1,
        le=256,
        description="mails that wait for keys at a time, of a native host's process",
    )

    def standing(self) -> StandingOptions | None:
        """For the filter; None where nobody is to be asked."""
        if not self.check_signatures:
            return None
        servers = tuple(map(parse_server, self.nameservers))
        return StandingOptions(
            VerifyOptions(self.signature_limit, self.dns_time),
            DnsOptions(servers, self.dns_timeout),
        )
