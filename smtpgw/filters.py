"""The filters of ours that this process asks itself, where milters name them (`filter:NAME`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from smtpgw.chain.options import Filter, MilterOptions
from smtpgw.config import Loaded
from smtpgw.plan import Plan


class Filters:
    """Those of some settings, by name."""

    def __init__(self, found: Mapping[str, Filter] | None = None) -> None:
        self._found = found or {}

    @classmethod
    def open(cls, settings: Loaded) -> Filters:
        """Read their keys, tables and rules.  Raises ConfigError."""
        names = settings.smtpgw.filters_inside
        if not names:
            return cls()
        from milterd import inside

        return cls(inside.filters(settings.filters, names))

    def equip(self, milters: tuple[MilterOptions, ...]) -> tuple[MilterOptions, ...]:
        """These milters, each with its filter if it is one."""
        return tuple(
            replace(each, inside=self._found[each.filter]) if each.filter else each
            for each in milters
        )

    def equip_plan(self, plan: Plan) -> Plan:
        """The plan with such milters."""
        return replace(plan, milters=self.equip(plan.milters)) if self._found else plan
