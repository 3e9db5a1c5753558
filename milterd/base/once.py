"""An attribute that is made when it is first asked for.

What functools.cached_property is from Python 3.12 on: without a lock that all objects share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - it is used as property is
    """Decorates a method without arguments.  What it gives stays in the object's `__dict__`;
    where that is deleted it is asked again."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self._name = make, make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, _owner: object = None) -> T:
        made = instance.__dict__[self._name] = self._make(instance)
        return made
