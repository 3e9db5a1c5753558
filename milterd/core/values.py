"""Values that are made many times for each mail.

A frozen dataclass sets each field by a call of its own: eighteen fields take eight times as long
as plain ones.  Here the type checker alone keeps a value from being changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(made: type[T]) -> type[T]:
    """A slotted dataclass that compares and hashes as a frozen one does, and is not to be changed
    any more than that."""
    return dataclass(slots=True, unsafe_hash=True)(made)
