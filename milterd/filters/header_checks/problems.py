"""What is wrong with tables of checks."""

from __future__ import annotations

from collections.abc import Sequence


class TableError(Exception):
    """A table that cannot be used; `problems` lists all that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
