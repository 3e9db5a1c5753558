"""All checks of a site from their settings."""

from __future__ import annotations

from collections.abc import Mapping

from milterd.filters.header_checks.problems import TableError
from milterd.filters.header_checks.run import CheckSet
from milterd.filters.header_checks.tables import Checks
from milterd.filters.header_checks.walk import Bounds, Kind
from milterd.signed.keep import OnSigned


def check_set(
    specs: Mapping[Kind, tuple[str, ...]], bounds: Bounds, size_limit: int, on_signed: OnSigned
) -> CheckSet:
    """Read the tables of each kind, each list of them once.  Raises :class:`TableError`."""
    read: dict[tuple[str, ...], Checks] = {}
    problems: list[str] = []
    for each in dict.fromkeys(specs.values()):
        try:
            read[each] = Checks(each)
        except TableError as error:
            kind = next(kind for kind, its in specs.items() if its == each)
            problems += (f"{kind.value}: {problem}" for problem in error.problems)
    if problems:
        raise TableError(problems)
    tables = {kind: read[each] for kind, each in specs.items()}
    return CheckSet(tables, bounds, size_limit, on_signed)
