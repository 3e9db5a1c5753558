"""The work of `smtpgw lookup`: a table asked for keys, and all of it shown."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from milterd.base.escaping import escape
from smtpgw.address import form
from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Hit, ask
from smtpgw.address.keys import Key, Strategy, domain_keys, keys
from smtpgw.tables.catalogue import open_maps
from smtpgw.tables.context import Context
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import TableError, Unavailable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

NOT_FOUND, TEMPFAIL, CONFIG_ERROR = 1, 75, 78
_STRATEGIES = {
    "address": Strategy.DEFAULT,
    "access": Strategy.FULL
    | Strategy.NOEXT
    | Strategy.DOMAIN
    | Strategy.PARENT
    | Strategy.LOCALPART_AT,
    "transport": Strategy.FULL | Strategy.NOEXT | Strategy.DOMAIN | Strategy.DOT_PARENT,
}


class Said:
    """A log on standard error, for people: `event key=value ...`."""

    def warning(self, event: str, **facts: object) -> None:
        words = " ".join(f"{key}={escape(str(value))}" for key, value in facts.items())
        sys.stderr.write(f"warning: {event}: {words}\n")

    error = warning

    def info(self, event: str, **facts: object) -> None:
        """What only a daemon's log needs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says; `how` is a value of :class:`smtpgw.lookup_cli.How`."""

    how: str
    local: bool
    delimiter: str
    explain: bool
    json: bool
    many: bool


def run(asked: Asked, table: str, key: str) -> int:
    """The exit code."""
    lines = _lines() if asked.many else iter([os.fsencode(key)])
    try:
        status = asyncio.run(_Run(asked).run(table, lines))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # not 1, which would say that nothing was found
        return _complain(str(error), TEMPFAIL)
    return status


def _lines() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n")


class _Run:
    """One run of the command."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._delimiter = asked, Delimiter(os.fsencode(asked.delimiter))

    async def run(self, table: str, those: Iterator[bytes]) -> int:
        """The exit code."""
        log = cast("FilteringBoundLogger", Said())
        try:
            maps = open_maps(table, Context(base=Path.cwd(), log=log))
        except TableError as error:
            return _complain(str(error), CONFIG_ERROR)
        status = NOT_FOUND
        try:
            for key in those:
                hit = await self._find(maps, key)
                self._print(key, hit)
                status = status if hit is None else 0
        except Unavailable as error:
            return _complain(str(error), TEMPFAIL)
        finally:
            await maps.close()
        return status

    async def _find(self, maps: Maps, key: bytes) -> Hit | None:
        tried: list[bytes] = []
        hit = None
        for each in self._keys(key):
            hit = await ask(maps, each, tried.append)
            if hit is not None:
                break
        if self._asked.explain:
            for text in tried[: -1 if hit else None]:
                sys.stderr.write(f"{_shown(text)}: not found\n")
            if hit is not None:
                sys.stderr.write(f"{_shown(hit.key)}: found, {escape(hit.where or maps.name)}\n")
        return hit

    def _keys(self, key: bytes) -> Iterator[Key]:
        if self._asked.how == "key":
            return iter([Key(key)])
        if self._asked.how == "domain":
            return domain_keys(key, Strategy.PARENT)
        strategy = _STRATEGIES[self._asked.how]
        found = keys(form.internal(key), strategy, self._delimiter, ours=self._asked.local)
        if self._asked.how == "transport":
            return iter([*found, Key(b"*", partial=True)])
        return found

    def _print(self, key: bytes, hit: Hit | None) -> None:
        if self._asked.json:
            sys.stdout.write(json.dumps(_object(key, hit)) + "\n")
        elif hit is not None:
            lead = key + b"\t" if self._asked.many else b""
            sys.stdout.buffer.write(lead + hit.value + b"\n")


def _object(key: bytes, hit: Hit | None) -> dict[str, Any]:
    found: dict[str, Any] = {"key": _shown(key), "found": hit is not None}
    if hit is not None:
        found |= {"value": _shown(hit.value), "where": hit.where, "by": _shown(hit.key)}
        if not _utf8(hit.value):
            found["value_base64"] = base64.b64encode(hit.value).decode()
    return found


def _utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"{escape(text, 2000)}\n")
    return status
