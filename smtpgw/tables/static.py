"""static:VALUE, static:{ VALUE } - the same answer for every key."""

from __future__ import annotations

from smtpgw.tables import spec as specs
from smtpgw.tables.context import Context
from smtpgw.tables.folding import Folding
from smtpgw.tables.table import Changes, Found, Local, TableError, Unavailable


class Static(Local):
    """One answer."""

    def __init__(self, name: str, value: bytes, folding: Folding) -> None:
        super().__init__(name)
        self._found, self._folding = Found(value, name), folding

    def find_now(self, key: bytes) -> Found | None:
        """The answer; none for a key that is not UTF-8 where it must be, as with every table."""
        if self._folding.pattern(key) is None:
            return None
        if not self._folding.allows(self._found.value):
            raise Unavailable(self.name, "the value is not UTF-8")
        return self._found

    def changes(self) -> tuple[Changes, ...]:
        """Nothing: it never changes."""
        return ()


def open(name: str, context: Context) -> Static:
    """Raises TableError."""
    spec = context.spec(name)
    try:
        value = specs.inside(name) if name.startswith("{") else name
    except ValueError as error:
        raise TableError(spec, found=str(error), expected="{ value }") from error
    return Static(spec, specs.octets(value), context.folding)
