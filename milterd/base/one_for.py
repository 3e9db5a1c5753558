"""Keys that are found without a look at what they stand for."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=1024)
def one_for(*_what: object) -> object:
    """One object for all that are equal, as long as it is remembered."""
    return object()
