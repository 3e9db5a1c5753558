"""The restrictions by name; each module of :mod:`smtpgw.policy.restrictions` adds its own.

@restriction("reject_rbl_client", "reject_rbl", argument=Argument.DOMAIN)
async def reject_rbl_client(run: Run, rule: Rule) -> Outcome: ...
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.policy.run import Check

Prepare = Callable[[str], object]
"""Makes of an argument, when the settings are read, what :attr:`Rule.value` has.  Raises
ValueError saying what was expected."""


class Argument(enum.Enum):
    """What stands behind a restriction."""

    NONE = ""
    TABLE = "type:name of a table"
    DOMAIN = "domain of a list, domain or domain=d.d.d.d"
    NUMBER = "number"
    SERVICE = "type:name of a service"
    WORD = "name"


@dataclass(frozen=True, slots=True)
class Restriction:
    """`name` is the one of today, whichever it was asked for by.  One that is `settled` goes by
    what :data:`smtpgw.policy.settled.Key` has, and by tables that address resolution, mynetworks
    and the lists of known addresses have; by nothing else."""

    name: str
    check: Check
    argument: Argument = Argument.NONE
    prepare: Prepare | None = None
    settled: bool = False


_KNOWN: dict[str, Restriction] = {}


def restriction(
    name: str,
    *others: str,
    argument: Argument = Argument.NONE,
    prepare: Prepare | None = None,
    settled: bool = False,
) -> Callable[[Check], Check]:
    """Register one; `others` are its older names."""

    def register(check: Check) -> Check:
        found = Restriction(name, check, argument, prepare, settled)
        for each in (name, *others):
            if each in _KNOWN:
                raise ValueError(f"two restrictions are called {each}")
            _KNOWN[each] = found
        return check

    return register


def find(name: str) -> Restriction | None:
    """A restriction; upper and lower case are alike."""
    return _KNOWN.get(name.lower())


def names() -> tuple[str, ...]:
    """All names, old ones too."""
    return tuple(sorted(_KNOWN))
