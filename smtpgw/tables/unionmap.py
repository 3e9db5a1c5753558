"""unionmap:{ type:name, type:name } - the answers of all tables that have the key, joined with
commas.  One that cannot answer fails the whole."""

from __future__ import annotations

from smtpgw.tables.context import Context
from smtpgw.tables.members import Members, Search, open_members
from smtpgw.tables.table import Found, Table


class Union(Members):
    """All answers."""

    def search(self, key: bytes) -> Search:
        """Every member is asked for the key itself."""
        values, places = b"", []
        for table in self.tables:
            found = yield table, key
            if found is not None:
                # dict_union.c puts a comma only behind something: an empty first answer has none.
                values += (b"," if values else b"") + found.value
                places.append(found.where)
        return Found(values, ", ".join(places)) if places else None


def open(name: str, context: Context) -> Table:
    """Raises TableError."""
    return open_members(name, context, Union)
