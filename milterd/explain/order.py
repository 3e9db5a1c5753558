"""Which filters are asked, and in which order.

The gateway's tables say it where the settings file has some for our sockets: their order,
and the directions of mail that each is asked about.  Otherwise the order is that of the
Postfix snippet that comes with Gatepost.  The gateway's half is only glanced at here: what
is wrong in it is `smtpgw check`'s affair.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milterd.base import row, sockets
from milterd.config import MilterdConfig
from milterd.core.mail import Direction


@dataclass(frozen=True, slots=True)
class Place:
    """A filter's place in the row: its name, and the mail it is asked about."""

    name: str
    directions: tuple[Direction, ...] = tuple(Direction)


def places(path: Path, config: MilterdConfig) -> list[Place]:
    """Every filter in the settings once, in the order of asking."""
    own = {str(config.address(name)): name for name in config.filter.present()}
    found = list(_of_the_gateway(_tables(path), own))
    named = {each.name for each in found}
    rest = sorted((name for name in own.values() if name not in named), key=row.rank)
    return [*found, *(Place(name) for name in rest)]


def _tables(path: Path) -> Sequence[Any]:
    """[[smtpgw.milter]], whatever it holds."""
    gateway = tomllib.loads(path.read_text("utf-8")).get("smtpgw")
    tables = gateway.get("milter") if isinstance(gateway, Mapping) else None
    return tables if isinstance(tables, list) else []


def _of_the_gateway(tables: Sequence[Any], own: Mapping[str, str]) -> Iterator[Place]:
    seen: set[str] = set()
    for each in tables:
        name = own.get(_address(each)) if isinstance(each, Mapping) else None
        if name is not None and name not in seen:
            seen.add(name)
            asked = each.get("directions", [one.value for one in Direction])
            yield Place(name, tuple(one for one in Direction if one.value in asked))


def _address(table: Mapping[str, Any]) -> str:
    try:
        return str(sockets.parse(str(table.get("address", ""))))
    except ValueError:
        return ""
