"""environ:NAME - the variables of the process's environment; the name is for people only."""

from __future__ import annotations

import os

from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, Local


class Environ(Local):
    """The key is folded as everywhere, so that no variable with a capital in it is ever found."""

    def __init__(self, name: str, context: Context) -> None:
        super().__init__(name)
        self._folding = context.folding

    def find_now(self, key: bytes) -> Found | None:
        """The value of a variable."""
        folded = self._folding.fixed(key)
        value = os.environb.get(folded) if folded else None
        return None if value is None else Found(value, self.name)


def open(name: str, context: Context) -> Environ:
    """Never refused."""
    return Environ(context.spec(name), context)
