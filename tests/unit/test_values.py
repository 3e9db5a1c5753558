"""Values that are made many times for each mail: as good as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import pytest

from milterd.core.values import value


@value
class Quick:
    """One."""

    number: int
    text: str = ""
    more: tuple[int, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Frozen:
    """The same."""

    number: int
    text: str = ""
    more: tuple[int, ...] = field(default_factory=tuple)


def test_it_is_as_good_as_a_frozen_one() -> None:
    one, other = Quick(1, "a"), Quick(1, "a")
    assert one == other
    assert hash(one) == hash(other) == hash(Frozen(1, "a"))
    assert one != Quick(2, "a")
    assert repr(one) == repr(Frozen(1, "a")).replace("Frozen", "Quick")
    assert replace(one, number=2) == Quick(2, "a")  # type: ignore[type-var] # mypy knows it by its own name only
    with pytest.raises(AttributeError):
        one.other = 1  # type: ignore[attr-defined] # that is what slots are for


def test_the_type_checker_keeps_it_from_being_changed() -> None:
    """An error that mypy does not find is one itself, since unused ignores are."""
    one = Quick(1)
    one.number = 2  # type: ignore[misc] # frozen, as far as mypy can see
    assert [each.name for each in fields(one)] == ["number", "text", "more"]  # type: ignore[arg-type] # as above
