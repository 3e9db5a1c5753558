"""The name that was perhaps meant: for whoever has misspelt one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, names: Iterable[str]) -> str:
    """The one of the names that is most like the word; empty if none is much like it."""
    # Here: a daemon whose settings are right never needs it, and it is a quarter of a megabyte.
    import difflib

    return next(iter(difflib.get_close_matches(word, list(names), 1)), "")
