"""JSON texts, many of them: what json.JSONEncoder.encode makes anew for each, made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, cast


def encoder(
    default: Callable[[Any], object], item: str = ", ", key: str = ": "
) -> Callable[[object], str]:
    """What writes a value as JSON, in ASCII; `default` says what stands for a value that JSON has
    not, `item` and `key` part the members of what holds others.  The value must not hold itself.
    Raises what `default` raises, and ValueError, TypeError as json.dumps does."""
    usual = json.JSONEncoder(separators=(item, key), default=default, check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # a Python without it
        return usual.encode
    text = json.encoder.encode_basestring_ascii
    made = make(None, default, text, None, key, item, False, False, True)
    pieces = cast("Callable[[object, int], Iterable[str]]", made)
    join = "".join
    return lambda value: join(pieces(value, 0))
