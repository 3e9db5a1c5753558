"""What the tables of all filters have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from milterd.base import sockets
from milterd.base.fields import Kind
from milterd.base.settings import Table
from milterd.host.seam import HostKind


def _socket(text: str) -> str:
    sockets.parse(text, directory="/")
    return text


Socket = Annotated[str, AfterValidator(_socket), Kind("address")]


class FilterTable(Table):
    """What every filter's table has."""

    socket: Socket = Field(
        description='"unix:PATH", relative to socket_directory, or "inet:PORT@HOST"'
    )
    host: HostKind = Field(
        description="what speaks the milter protocol; docs/hosts.md compares the two"
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="processes that share the socket, for more cores"
    )
    mode: Literal["on", "shadow"] = Field(
        default="on",
        description='"shadow": it decides, and the log and the metrics say what, but the mail '
        "goes on as it is",
    )
