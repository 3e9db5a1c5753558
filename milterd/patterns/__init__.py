"""Postfix's regexp: and pcre: tables: their patterns, and the rules made of them.

Both halves read such tables, so what they mean is known here; where a table comes from and who
asks it is their own matter.  Nothing here opens a file or reads a clock.
"""
