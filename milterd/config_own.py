"""The settings of [filter.own.NAME]: a postmaster's own filter."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from milterd.base import sockets
from milterd.base.fields import Duration, Kind
from milterd.config_filter import FilterTable
from milterd.filters.own_options import OwnOptions
from milterd.host.options import OnFailure
from milterd.host.seam import HostKind

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def _name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise ValueError("expected a name of small letters, digits and -, at most 31")
    return text


def _socket(text: str) -> str:
    if text:
        sockets.parse(text, directory="/")
    return text


OwnSocket = Annotated[str, AfterValidator(_socket), Kind("address")]
OwnName = Annotated[str, AfterValidator(_name), Kind("name")]


class OwnSettings(FilterTable):
    """A filter of your own, from one file (docs/write-a-filter.md)."""

    module: str = Field(
        min_length=1,
        description="its file, a path that ends with .py, which only root or milterd's user may "
        "be able to write; or the dotted name of a module that is installed beside milterd",
        examples=["/etc/gatepost/trap.py"],
    )
    socket: OwnSocket = Field(
        default="",
        description=f"{FilterTable.model_fields['socket'].description}; without this key, "
        '"unix:NAME.sock"',
    )
    host: HostKind = Field(
        default=HostKind.NATIVE, description=FilterTable.model_fields["host"].description
    )
    threads: int = Field(
        default=16,
        ge=0,
        le=256,
        description="mails it looks at at a time in a native host's process; 0 for a filter "
        "whose gather waits for nobody",
    )
    timeout: Duration = Field(
        default=60.0,
        gt=0,
        description="for gather and decide on one mail, of a native host with threads; a later "
        "answer counts for nothing, and the mail is dealt with as on_failure says",
    )
    on_failure: OnFailure = Field(
        default=OnFailure.TEMPFAIL,
        description="what becomes of a mail where gather or decide raises, or asks for what "
        "cannot be done",
    )
    settings: dict[str, Any] = Field(
        default={},
        description="What its class Settings takes, key by key.",
        examples=[{"retired": "/etc/gatepost/retired"}],
    )

    def own_options(self, name: str) -> OwnOptions:
        """For the filter."""
        return OwnOptions(name, self.module, self.settings)
