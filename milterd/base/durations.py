"""Times and sizes as a postmaster writes them: 300, "5d", "4h", "30s"; 25000, "25M".

The units of time are those of postconf(5): s, m, h, d, w; one number, one unit.
"""

from __future__ import annotations

import math
import re

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_OCTETS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_TIME = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s?([smhdw]?)\Z", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})\s?([KMG]?)\Z", re.ASCII)


def seconds(value: object) -> float:
    """A duration in seconds.  Raises ValueError for anything that is not one."""
    if isinstance(value, str):
        match = _TIME.match(value.strip())
        if match is not None:
            return float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ValueError('expected seconds, or a number with a unit such as "30s", "5m", "4h", "5d"')


def seconds_named(value: object, *, usual: str) -> float:
    """The same, of a setting whose bare number is `usual` ("days") in Postfix and would be seconds
    here: such a number is refused.  A float is one that was read before."""
    bare = isinstance(value, str) and value.strip().isdecimal()
    found = seconds(value)
    if found and (bare or isinstance(value, int)):
        raise ValueError(
            f'expected a number with its unit, such as "{value}{usual[0]}" or "{value}s": '
            f"without one it would be {usual} in Postfix"
        )
    return found


def octets(value: object) -> int:
    """A size in octets.  Raises ValueError for anything that is not one."""
    if isinstance(value, str):
        match = _SIZE.match(value.strip().upper())
        if match is not None:
            return int(match[1]) * _OCTETS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError('expected octets, or a number with a unit such as "100K", "25M", "1G"')
