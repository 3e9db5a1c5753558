"""Where messages come from, and the one form they all have: every line, the last one too, ends
in CRLF, and there is no NUL."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
from pathlib import Path

from tests.corpus.build import build

_LINE_END = re.compile(rb"\r\n|\r|\n")


@functools.cache
def messages() -> list[tuple[str, bytes]]:
    """Every message by its name, the names unique and in the same order each time."""
    return [*cpython(), *constructed()]


@functools.cache
def constructed() -> list[tuple[str, bytes]]:
    """The messages of :mod:`tests.corpus.build`."""
    return build()


@functools.cache
def cpython() -> list[tuple[str, bytes]]:
    """The messages of CPython's test_email, from the interpreter that runs, or Debian's.

    Raises FileNotFoundError, naming the package that has them.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    places = [Path(sysconfig.get_path("stdlib")), Path(f"/usr/lib/python{version}")]
    for place in places:
        found = sorted((place / "test/test_email/data").glob("msg_*.txt"))
        if found:
            return [(f"cpython/{each.stem}", crlf(each.read_bytes())) for each in found]
    raise FileNotFoundError(
        f"no messages of CPython's: `make test` installs them (Debian package "
        f"libpython{version}-testsuite)"
    )


def crlf(octets: bytes) -> bytes:
    """The same with CRLF as every line end, as an SMTP client sends it."""
    ended = _LINE_END.sub(b"\r\n", octets)
    return ended if ended.endswith(b"\r\n") else ended + b"\r\n"
