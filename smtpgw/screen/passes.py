"""Which tests a client has passed, and until when.  Pure.

As in postscreen's cache, a client has a time for each test: NEW says that the test was never
passed, OFF that it was not passed when it was switched off.  A client with a test that is NEW
becomes known ("pass new") when it has passed what is asked of it now.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

NEW, OFF = 0, 1


class Test(enum.Enum):
    """What is looked at, in the order of postscreen's cache."""

    __test__ = False  # it is none of pytest's

    PREGREET = "pregreet"
    DNSBL = "dnsbl"
    PIPELINING = "pipelining"
    NON_SMTP = "non_smtp_command"
    BARE_NEWLINE = "bare_newline"


EARLY = frozenset({Test.PREGREET, Test.DNSBL})
DEEP = frozenset({Test.PIPELINING, Test.NON_SMTP, Test.BARE_NEWLINE})


@dataclass(frozen=True, slots=True)
class Passes:
    """Until when each test is passed, in seconds since 1970."""

    until: Mapping[Test, int] = field(default_factory=dict)

    def todo(self, enabled: Collection[Test], now: float) -> frozenset[Test]:
        """Those that have to be passed again, or for the first time."""
        return frozenset(each for each in enabled if now > self.until.get(each, NEW))

    @property
    def new(self) -> bool:
        """Whether the client has not passed everything yet."""
        return any(self.until.get(each, NEW) == NEW for each in Test)

    def passed(self, more: Mapping[Test, float], enabled: Collection[Test]) -> Passes:
        """With these times instead.  What was never passed and is switched off is OFF."""
        until = {each: int(more.get(each, self.until.get(each, NEW))) for each in Test}
        for each in Test:
            if each not in enabled and until[each] == NEW:
                until[each] = OFF
        return Passes(until)

    @property
    def last(self) -> int:
        """When nothing of it is good any more."""
        return max(self.until.values(), default=NEW)

    def encode(self) -> str:
        """As postscreen writes it."""
        return ";".join(str(self.until.get(each, NEW)) for each in Test)


def decode(text: str) -> Passes:
    """The same read; of tests that it does not know yet, OFF.  Raises ValueError."""
    parts = text.split(";")
    if not all(each.isdecimal() and each.isascii() and len(each) < 20 for each in parts):
        raise ValueError(f"{text!a}: no times of tests")
    times = dict(zip(Test, map(int, parts), strict=False))
    return Passes({each: times.get(each, OFF) for each in Test})
