"""Macros and encryption in Office files, by oletools; loaded where such a file is met (0.4 s)."""

from __future__ import annotations

import io

from milterd.ports.attached.found import Mark


def marks(octets: bytes) -> set[Mark]:
    """What an Office file, of either form, is remarkable for.  Raises ValueError for one that
    cannot be read."""
    import olefile
    from oletools import crypto
    from oletools.olevba import VBA_Parser

    if octets.startswith(olefile.MAGIC):  # isOleFile takes few octets for a path, and opens it
        with olefile.OleFileIO(io.BytesIO(octets)) as document:
            if crypto.is_encrypted(document):
                return {"encrypted"}
    try:
        parser = VBA_Parser("attachment", data=octets)
    except Exception as error:  # its own kinds of errors, and those of four parsers
        raise ValueError(f"not an Office file that can be read: {error}") from error
    try:
        found = parser.detect_vba_macros() or parser.detect_xlm_macros()
    finally:
        parser.close()
    return {"macros"} if found else set()
