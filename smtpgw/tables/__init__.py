"""Lookup tables: Postfix's `type:name`, each type in a file of its own.

`catalogue.open_table("hash:/etc/postfix/virtual", context)` opens one, and
`await table.find(b"user@example.net")` asks it.  See docs/tables.md.
"""
