"""One decision: what a client was told, and everything that led to it.

A refusal has a reference of its own, which its text carries; a mail that was taken is known by
its queue id, which its answer carries too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Protocol

from milterd.base import chance
from milterd.base.json_text import encoder

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
"""No character that is taken for another one when it is read out."""
WIDTH = 8
_PAIRS = tuple(one + other for one in ALPHABET for other in ALPHABET)
_COUNT = len(_PAIRS)
_HALF = _COUNT**2
_MOST = _HALF**2
LONGEST = 16_384
"""Octets of a decision that are kept; of one with more, the first steps and this note."""
_TEXT = 1000
"""Characters of each text of a decision that is too long."""


def new_reference() -> str:
    """An id that has not been given before, but for one chance in 850 thousand million."""
    upper, lower = divmod(chance.below(_MOST), _HALF)
    return (
        _PAIRS[lower % _COUNT] + _PAIRS[lower // _COUNT]
        + _PAIRS[upper % _COUNT] + _PAIRS[upper // _COUNT]
    )  # fmt: skip


@dataclass(slots=True)  # there is one for each mail, and to freeze it costs as much as a call each
class Decision:
    """`at` is in seconds since the epoch.  `source` is the rule, the milter or the limit that had
    the last word, `outcome` what became of it: accepted, held, discarded, rejected, tempfailed or
    failed.  `facts` say more of why, `steps` which rules were asked on the way and what they said,
    both of values that JSON has."""

    reference: str
    at: float
    session: str
    listener: str
    command: str
    code: int
    enhanced: str
    text: str
    source: str
    outcome: str
    client: str = ""
    client_name: str = ""
    helo: str = ""
    sender: str = ""
    recipient: str = ""
    queue_id: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    steps: Sequence[Mapping[str, object]] = ()

    def encode(self) -> str:
        """As JSON, not longer than `LONGEST`."""
        text = _json(self._values())
        return text if len(text) <= LONGEST else self._shortened()

    def _values(self) -> dict[str, object]:
        """The fields as they are: nothing is copied that is only to be written."""
        return dict(zip(_NAMES, _values(self), strict=True))

    def _shortened(self) -> str:
        short = {k: v[:_TEXT] if isinstance(v, str) else v for k, v in self._values().items()}
        kept: list[dict[str, object]] = []
        short |= {"facts": _cut(self.facts), "steps": kept}
        room = LONGEST - len(_json(short)) - 100
        for each in self.steps:
            cut = _cut(each)
            room -= len(_json(cut)) + 1
            if room < 0:
                break
            kept.append(cut)
        kept.append({"left_out": len(self.steps) - len(kept)})
        return _json(short)


class Kept(Protocol):
    """A decision, or what is written as one."""

    reference: str

    @property
    def queue_id(self) -> str: ...

    @property
    def session(self) -> str: ...

    def encode(self) -> str: ...


_NAMES = tuple(each.name for each in fields(Decision))
_values = attrgetter(*_NAMES)


def decode(text: str) -> Decision:
    """The same again.  Raises ValueError, TypeError for what is no decision."""
    return Decision(**json.loads(text))


to_json = _json = encoder(str, ",", ":")
"""A part of a decision as it stands in one."""


def _cut(facts: Mapping[str, object]) -> dict[str, object]:
    said = {key: _json(each) for key, each in list(facts.items())[:30]}
    return {
        key: facts[key] if len(each) <= _TEXT else each[:_TEXT] + "..."
        for key, each in said.items()
    }
