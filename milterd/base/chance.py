"""The system's random numbers, asked for many at once.

A question to the kernel costs as much as all else that an id is made of.  Nothing is handed out
twice, and a forked child has none of its parent's.  For ids; keys are made by `secrets`.
"""

from __future__ import annotations

import os
import struct

BITS = 64
"""Of a number that is drawn."""
AT_ONCE = 128
"""Numbers that are asked for at once."""
_ALL = 1 << BITS

_drawn: list[int] = []
"""Numbers below 2**BITS that nobody has got yet; each is taken away in one step, so that no two
threads get the same."""
os.register_at_fork(after_in_child=_drawn.clear)


def _draw_more() -> None:
    _drawn.extend(struct.unpack(f"{AT_ONCE}Q", os.urandom(AT_ONCE * BITS // 8)))


def below(limit: int) -> int:
    """A number from 0 to `limit` - 1, each as likely as the others; from any thread.
    Raises ValueError where there is none, or `limit` is over 2**BITS."""
    if not 0 < limit <= _ALL:
        raise ValueError(f"no number is below {limit} and one of {BITS} bits")
    fair = _ALL - _ALL % limit
    while True:
        try:
            number = _drawn.pop()
        except IndexError:
            _draw_more()
            continue
        if number < fair:  # or else some would be likelier than others
            return number % limit
