"""The garbage collector of a process that serves for long."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

YOUNG = 10_000
"""New objects that may hold others before the young ones are looked through: some mails' worth,
not some lines' (gc.set_threshold)."""


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While a program is loaded, nothing that it makes ends: to look for that costs a sixth of
    the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle() -> None:
    """To be called once the program is loaded: what is there now lives as long as the process,
    and need not be looked at again.  What ends before, like settings, must not be there yet: it
    would never be found."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
