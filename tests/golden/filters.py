"""Our three filters as a site has them, at a fixed time, so that two of each decide alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milterd.filters import FILTERS, CheckedFilter, Clocks
from milterd.filters.clamav import ClamavOptions
from milterd.filters.dkim import DkimOptions, SigningKey
from milterd.filters.headers import HeadersOptions

NAMES = ("clamav", "headers", "dkim")
NOW = 1_800_000_000.0


def build(name: str, clamd: str, key: Path) -> CheckedFilter:
    """One of the filters; `clamd` is an address, `key` signs for example.net."""
    options: dict[str, Any] = {
        "clamav": ClamavOptions(clamd=(clamd,), hostname="mx.example.net"),
        "headers": HeadersOptions(
            rules=("submission-privacy", "inbound-hygiene"),
            parameters={"authserv_id": ("mx.example.net",), "hostname": ("mx.example.net",)},
        ),
        "dkim": DkimOptions(signing_table=(SigningKey("example.net", "s", key, True),)),
    }
    return FILTERS[name].build(options[name], Clocks(wall=lambda: NOW))
