"""The options of Postfix's checks: what a configuration knows of them without loading them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from milterd.filters.header_checks.walk import Bounds, Kind
from milterd.signed.keep import OnSigned

if TYPE_CHECKING:
    from milterd.filters.header_checks.run import CheckSet


@dataclass(frozen=True, slots=True)
class ChecksOptions:
    """Postfix's parameters of the same names, see header_checks(5) and cleanup(8).

    Tables are `regexp:/file` or `pcre:/file`.  None for the lists of parts' headers stands for
    `header_checks`.  `on_signed` is what a change does where a signature covers it.
    """

    header_checks: tuple[str, ...] = ()
    mime_header_checks: tuple[str, ...] | None = None
    nested_header_checks: tuple[str, ...] | None = None
    body_checks: tuple[str, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    body_checks_size_limit: int = 51_200
    on_signed: OnSigned = OnSigned.SKIP

    def read(self) -> CheckSet | None:
        """Read the tables; None if there are none.  Raises :class:`TableError`."""
        first = self.header_checks
        mime = first if self.mime_header_checks is None else self.mime_header_checks
        nested = first if self.nested_header_checks is None else self.nested_header_checks
        specs = {
            Kind.HEADER: first,
            Kind.MIME: mime,
            Kind.NESTED: nested,
            Kind.BODY: self.body_checks,
        }
        if not any(specs.values()):
            return None
        # Now, and not for all: most sites have no tables, and what reads them is another engine.
        from milterd.filters.header_checks.sets import check_set

        return check_set(specs, self.bounds, self.body_checks_size_limit, self.on_signed)
