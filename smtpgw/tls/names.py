"""tls_server_sni_maps: from a name that a client asks for to chain files (postconf(5)).

The key is the name, then `.parent` for each name above it.  The value is a list of files.  The
question is put in the middle of a handshake, which cannot wait: only tables whose answers are in
memory serve.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smtpgw.tls.chains import ChainError
from smtpgw.tls.options import Files

FindNow = Callable[[bytes], bytes | None]
"""What tables say to a key, at once."""


class SniMaps:
    """A :class:`~smtpgw.tls.server.NamedChains` on tables."""

    def __init__(self, find: FindNow, base: Path) -> None:
        self._find, self._base = find, base

    def files(self, name: str) -> Sequence[Files] | None:
        """The chain files for a name.  Raises ChainError."""
        for key in keys(name):
            value = self._find(key.encode())
            if value is not None:
                return self._listed(name, value)
        return None

    def _listed(self, name: str, value: bytes) -> Sequence[Files]:
        words = [each for each in re.split(rb"[\s,]+", value) if each]
        if not words:
            raise ChainError(Path(name), "no files in tls_server_sni_maps")
        return [Files(self._base / each.decode("utf-8", "surrogateescape")) for each in words]


def keys(name: str) -> Iterator[str]:
    """The name itself, then what stands for all names below each of those above it."""
    yield name
    while name := name.partition(".")[2]:
        yield f".{name}"
