"""The one recipient of a mail that is leased from its first moment: it has no row of its own.

Who is an address and nothing else stands in the mail's row, for most such mails are gone before
there is anything to write of a recipient.  Whatever there is to write first gives it a row; so a
mail whose row names it is in delivery for the first time, or was damaged then.
"""

from __future__ import annotations

import sqlite3

_ROW = "INSERT OR REPLACE INTO recipient (mail, number, address, args) SELECT seq, 0, sole, '[]'"


def give_row(db: sqlite3.Connection, seq: int) -> None:
    """To this mail's, if it has none."""
    db.execute(_ROW + " FROM mail WHERE seq=? AND sole IS NOT NULL", (seq,))
    db.execute("UPDATE mail SET sole=NULL WHERE seq=? AND sole IS NOT NULL", (seq,))


def give_rows(db: sqlite3.Connection) -> None:
    """To those of all mails in delivery."""
    db.execute(_ROW + " FROM mail WHERE state=1 AND sole IS NOT NULL")
    db.execute("UPDATE mail SET sole=NULL WHERE state=1 AND sole IS NOT NULL")
