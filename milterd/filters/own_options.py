"""The options of a postmaster's own filter: what a configuration knows of it without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class OwnOptions:
    """Settings of one: `module` is a path or a dotted name, `settings` the table for it."""

    name: str
    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)
