"""What is wanted of a queue: mails of which sites, and which sites are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


def transport(site: object) -> str:
    """What stands before the colon; nothing where damage has left no text at all."""
    return site.partition(":")[0] if isinstance(site, str) else ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a courier can use.

    At most `each` mails of one site, or what `room` says of it, or `each_of` of its transport
    (what stands before the colon in a site); of all sites of a transport what `together` says.
    Mails born before
    `expired` (`expired_null` for the null sender), or unwarned ones born before `late`,
    come even if their site rests: somebody must be told.
    """

    each: int = 1_000_000
    room: Mapping[str, int] = field(default_factory=dict)
    each_of: Mapping[str, int] = field(default_factory=dict)
    together: Mapping[str, int] = field(default_factory=dict)
    expired: float = float("-inf")
    expired_null: float = float("-inf")
    late: float = float("-inf")

    def most(self, site: str) -> int:
        """How many mails of one site."""
        room = self.room.get(site)
        return self.each_of.get(transport(site), self.each) if room is None else room


ANY = Wish()
"""Whatever is due."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A site that is left alone until then (queue time), and why."""

    site: str
    until: float
    note: str
