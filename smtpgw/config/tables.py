"""What settings of tables and lists look like, and the settings of [smtpgw.tables].

A list is written as in main.cf, `"hash:/etc/postfix/virtual, mysql:/etc/postfix/virtual.cf"`,
or as a TOML array.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from milterd.base import settings
from milterd.base.fields import Duration, Kind
from smtpgw.config.types import check_domain, check_network
from smtpgw.tables import spec
from smtpgw.tables.catalogue import check_type
from smtpgw.tables.table import TableError

_ADDRESS = re.compile(r"[0-9A-Fa-f:.%/\[\]]+")
"""What is meant for an address or a network."""


def _listed(value: object) -> object:
    """What a tuple may be made of; pydantic takes no list for one once it has been looked at."""
    if isinstance(value, str):
        return tuple(spec.split(value))
    return tuple(value) if isinstance(value, list) else value


def _table(value: str) -> str:
    if "$" in value:
        return value  # looked at when its names have values
    try:
        check_type(spec.parse(value))
    except TableError as error:
        raise ValueError(f"expected {error.expected}") from None
    return value


def _pattern(value: str) -> str:
    bare = value.lstrip("!")
    if "$" in bare or bare.startswith("/"):
        return value
    if ":" in bare:
        return value[: len(value) - len(bare)] + _table(bare)
    return value[: len(value) - len(bare)] + check_domain(bare)


def _client(value: str) -> str:
    bare = value.lstrip("!")
    if "$" in bare or bare.startswith("/"):
        return value
    try:
        return value[: len(value) - len(bare)] + check_network(bare)
    except ValueError:
        if ":" not in bare or _ADDRESS.fullmatch(bare):
            raise
    return value[: len(value) - len(bare)] + _table(bare)


def _word(value: str) -> str:
    if not value or any(each.isspace() or each == "," for each in value):
        raise ValueError("expected one word")
    return value


Tables = Annotated[
    tuple[Annotated[str, AfterValidator(_table)], ...], BeforeValidator(_listed), Kind("tables")
]
"""`type:name`, asked in this order."""

Domains = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern), Kind("domain or table")], ...],
    BeforeValidator(_listed),
    Kind("list of domains"),
]
"""Domains, `!domain`, `type:name` and `/file/name`; the first that fits decides."""

Clients = Annotated[
    tuple[Annotated[str, AfterValidator(_client), Kind("network or table")], ...],
    BeforeValidator(_listed),
    Kind("list of networks"),
]
"""Addresses, networks, `!network`, `type:name` and `/file/name`; the first that fits decides."""

Words = Annotated[
    tuple[Annotated[str, AfterValidator(_word)], ...], BeforeValidator(_listed), Kind("list")
]


Restrictions = Annotated[tuple[str, ...], BeforeValidator(_listed), Kind("restrictions")]
"""Restrictions as main.cf has them; :mod:`smtpgw.policy.parse` looks at them."""


class TableSettings(settings.Table):
    """How tables are opened and asked."""

    directory: Path = Field(
        default=Path("/etc/gatepost"), description="where names of files without a slash begin"
    )
    bad_lines: Literal["skip", "refuse"] = Field(
        default="skip",
        description="a line that cannot be used is named in the log and the others count, as with "
        'Postfix; "refuse" keeps the content of before, and starts with no such table',
    )
    check_files: Duration = Field(
        default=1.0, ge=0, description="time between two looks whether a file has changed, at least"
    )
    regex_limit: Duration = Field(
        default=1.0, gt=0, description="for one lookup in a regexp: or pcre: table"
    )
    query_limit: Duration = Field(
        default=10.0, gt=0, description="for one question to a server, with all its attempts"
    )
    connect_limit: Duration = Field(
        default=5.0, gt=0, description="for a connection to a server of tables"
    )
    connections: int = Field(
        default=4, ge=1, description="to the servers of one table, for each worker"
    )
    cache_size: int = Field(
        default=10000, ge=0, description="answers of a server that are kept; 0: none"
    )
    cache_time: Duration = Field(default=60.0, ge=0, description="how long they are kept")
    cache_missing_time: Duration = Field(
        default=10.0, ge=0, description='how long it is kept that a server said "not found"'
    )
