"""Queue ids: 14 characters of 0-9A-Za-z that sort by time and never repeat.

Nine characters of microseconds, two of the shard, three of chance.  The time part
only ever grows: it starts above the highest one the store remembers, so neither a
restart nor a clock that jumps back hands an id out twice; the random part separates
ids that were handed out but never stored before a crash.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""In ASCII order, so that ids sort as their numbers do."""

_TIME, _SHARD, _CHANCE = 9, 2, 3
_LOW: int = 62**_CHANCE
_PAIRS = tuple(one + other for one in ALPHABET for other in ALPHABET)
_PAIR = len(_PAIRS)
_VALID = re.compile(r"[0-9A-Za-z]{10,16}\Z", re.ASCII)


def valid(queue_id: str) -> bool:
    """Whether this could be a queue id: the one check before it becomes a file name."""
    return _VALID.match(queue_id) is not None


def encode(number: int, width: int) -> str:
    """`number` in base 62, `width` characters; raises ValueError if it does not fit."""
    out = ""
    rest = number
    for _ in range(width):
        rest, digit = divmod(rest, 62)
        out = ALPHABET[digit] + out
    if rest or number < 0:
        raise ValueError(f"{number} does not fit {width} characters")
    return out


@functools.lru_cache(maxsize=64)
def _high(number: int) -> str:
    """The first characters of the time part, which stay the same for a quarter of a second."""
    return encode(number, _TIME - _CHANCE)


def moment(queue_id: str) -> int:
    """The time part of an id that :class:`IdMaker` made, in microseconds."""
    high = _TIME - _CHANCE
    return _high_number(queue_id[:high]) * _LOW + _number(queue_id[high:_TIME])


def _number(digits: str) -> int:
    """What :func:`encode` made them of."""
    number = 0
    for each in digits:
        number = number * 62 + ALPHABET.index(each)
    return number


_high_number = functools.lru_cache(maxsize=64)(_number)


class IdMaker:
    """Makes ids; safe to call from any thread.

    `floor` is the highest time part ever stored.  `clock` gives seconds since the
    epoch, `randbelow` a number below its argument.
    """

    def __init__(
        self,
        *,
        shard: int,
        floor: int,
        clock: Callable[[], float],
        randbelow: Callable[[int], int],
    ) -> None:
        self._shard = encode(shard, _SHARD)
        self._last = floor
        self._clock, self._randbelow = clock, randbelow
        self._lock = threading.Lock()

    def new(self) -> str:
        """An id greater than every one before it."""
        now = int(self._clock() * 1_000_000)
        with self._lock:
            last = self._last + 1
            self._last = last = now if now > last else last
        low, chance = last % _LOW, self._randbelow(_LOW)
        return (
            _high(last // _LOW) + ALPHABET[low // _PAIR] + _PAIRS[low % _PAIR]
            + self._shard + ALPHABET[chance // _PAIR] + _PAIRS[chance % _PAIR]
        )  # fmt: skip
