"""How a filter says that it cannot be built: everything that is wrong, at once."""

from __future__ import annotations

from collections.abc import Sequence


class SetupError(Exception):
    """A filter's settings cannot be used; `problems` lists all that was found."""

    def __init__(self, filter_name: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"filter {filter_name}: {each}" for each in problems))
        self.filter_name, self.problems = filter_name, tuple(problems)
