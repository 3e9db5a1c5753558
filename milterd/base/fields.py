"""Types of settings that TOML does not have, as fields of pydantic models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import BeforeValidator

from milterd.base import durations


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting's value is called in an error message and in the reference."""

    name: str


Duration = Annotated[float, BeforeValidator(durations.seconds), Kind("duration")]
"""A pydantic field type: seconds, or a string with a unit."""

Hours = Annotated[
    float, BeforeValidator(partial(durations.seconds_named, usual="hours")), Kind("duration")
]
Days = Annotated[
    float, BeforeValidator(partial(durations.seconds_named, usual="days")), Kind("duration")
]
"""Pydantic field types: a string with a unit, or 0.  For settings whose bare number Postfix takes
for hours or days, where anything else that we took it for would be a trap."""

Size = Annotated[int, BeforeValidator(durations.octets), Kind("size")]
"""A pydantic field type: octets, or a string with a unit."""

INHERITED = "inherited"
"""In a field's json_schema_extra: another table tells of this key, so the reference does not
repeat it."""

VERBATIM = "verbatim"
"""In a field's json_schema_extra: `$name` in it is no other setting's, but something that is
known only when the value is used."""
