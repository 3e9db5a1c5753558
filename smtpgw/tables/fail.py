"""fail:NAME - a table that never answers, for tests of a configuration."""

from __future__ import annotations

from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, Local, Unavailable


class Fail(Local):
    """No answer."""

    def find_now(self, key: bytes) -> Found | None:  # noqa: ARG002 - whatever the key
        """Raises Unavailable."""
        raise Unavailable(self.name, "fails by its nature")


def open(name: str, context: Context) -> Fail:
    """Never refused."""
    return Fail(context.spec(name))
