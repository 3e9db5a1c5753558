"""randmap:{ value, value } - any one of the values, whatever the key."""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.tables import spec as specs
from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, Local, TableError, Unavailable


class Random(Local):
    """One of several answers, all equally likely."""

    fixed = False

    def __init__(self, name: str, values: Sequence[bytes], context: Context) -> None:
        super().__init__(name)
        self._values, self._random = tuple(values), context.random
        self._folding = context.folding

    def find_now(self, key: bytes) -> Found | None:
        """Nothing for a key that is not UTF-8 where it must be, as with every table."""
        if self._folding.pattern(key) is None:
            return None
        value = self._random.choice(self._values)
        if not self._folding.allows(value):
            raise Unavailable(self.name, "the value is not UTF-8")
        return Found(value, self.name)


def open(name: str, context: Context) -> Random:
    """Raises TableError."""
    spec = context.spec(name)
    try:
        values = [specs.octets(each) for each in specs.members(name)]
    except ValueError as error:
        raise TableError(spec, found=str(error), expected="{ value, value... }") from error
    return Random(spec, values, context)
