"""pipemap:{ type:name, type:name } - each table is asked for what the one before answered; if
one has nothing, nothing is found."""

from __future__ import annotations

from smtpgw.tables.context import Context
from smtpgw.tables.members import Members, Search, open_members
from smtpgw.tables.table import Found, Table


class Pipe(Members):
    """One answer after the other."""

    def search(self, key: bytes) -> Search:
        """The first member is asked for the key."""
        places = []
        for table in self.tables:
            found = yield table, key
            if found is None:
                return None
            key = found.value
            places.append(found.where)
        return Found(key, ", ".join(places))


def open(name: str, context: Context) -> Table:
    """Raises TableError."""
    return open_members(name, context, Pipe)
