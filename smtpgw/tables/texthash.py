"""texthash: - a text file in the form of postmap(1), read as it is: here the same as hash:."""

from __future__ import annotations

from smtpgw.tables.hash import open as open
