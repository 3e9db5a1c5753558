"""Finding the files that come with a mail, in every reading that its MIME has.

Where a mail has one reading, its parts are the files.  Where it has more (milterd.mime.doubts),
everything that any reader could take out of it is looked at besides; of such a file nobody knows
which part holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from milterd.core.mail import Mail, body_octets
from milterd.filters.attachment_names import inner_names
from milterd.filters.attachment_options import Reach
from milterd.filters.attachment_rules import Item
from milterd.mime.decodings import Allowance, TooMuch, decodings
from milterd.mime.doubts import doubts
from milterd.mime.leaves import Leaf, leaves
from milterd.mime.names import names, names_in
from milterd.ports.attached.found import Look, Obstacle
from milterd.ports.attached.kinds import UNLISTED, kinds

_DEEP = frozenset({"zip", "tar", "gz", "bz2", "xz", "ole", "pdf", *UNLISTED})
"""Kinds of files that hold others, or marks that have to be looked for."""
_TAIL = b"PK\x05\x06"
"""The end of a zip, which may stand behind a file of another kind."""
MOST = 5000
"""Files of one mail that facts are kept of."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The files that came with a mail, what kept others from being seen, and whether its parts
    are the same for every reader."""

    items: tuple[Item, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    doubts: tuple[str, ...] = ()


class Looks(Protocol):
    """Who looks into files: :class:`milterd.ports.attached.pool.Pool`."""

    def look(self, octets: bytes, end: float) -> Look:
        """See :meth:`milterd.ports.attached.pool.Pool.look`."""
        ...


class Search:
    """One mail's files."""

    def __init__(self, looks: Looks, reach: Reach, clock: Callable[[], float]) -> None:
        self._looks, self._reach, self._clock = looks, reach, clock
        self._end = clock() + reach.seconds
        self._obstacles: dict[Obstacle, None] = {}
        self._items: list[Item] = []

    def seen(self, mail: Mail) -> Seen:
        """All that is found, within the limits."""
        size, limit = mail.size, self._reach.max_size
        if size > limit:
            return Seen(obstacles=(Obstacle("too_large", f"{size} octets, limit {limit}"),))
        octets = body_octets(mail.body)
        found = leaves(mail.headers, octets, self._reach.parts)
        if found.beyond:
            self._hinder("unscannable", found.beyond)
        in_doubt = doubts(mail.headers, octets)
        for number, leaf in enumerate(found.those):
            if self._late():
                break
            self._part(number, leaf, octets)
        if in_doubt and not self._late():
            self._others(mail, octets, in_doubt)
        if len(self._items) > MOST:
            self._hinder("unscannable", f"more than {MOST} files")
        return Seen(tuple(self._items[:MOST]), tuple(self._obstacles), in_doubt)

    def _part(self, number: int, leaf: Leaf, octets: bytes) -> None:
        declared = leaf.declared.decode("ascii", "replace")
        if declared in ("message/partial", "message/external-body"):
            self._hinder("unscannable", f"a {declared}")
        self._items += self._files(number, names(leaf.fields), declared, leaf.content(octets))

    def _others(self, mail: Mail, octets: bytes, in_doubt: tuple[str, ...]) -> None:
        called = tuple(dict.fromkeys((*names_in(octets), *names(mail.headers))))
        if called:
            self._items.append(Item(-1, called))
        try:
            allowance = Allowance(self._reach.readings, 4 * self._reach.max_size)
            for found in decodings(octets, allowance):
                if self._late():
                    return
                for each in self._files(-1, names_in(found[:65536]), "", found):
                    if each.kinds or each.names:
                        self._items.append(each)
        except TooMuch as error:
            self._hinder("unscannable", f"{error}: {in_doubt[0]}")

    def _files(
        self, number: int, called: tuple[str, ...], declared: str, content: bytes
    ) -> Iterator[Item]:
        """The file, and those in it."""
        found = kinds(content)
        if not _DEEP & set(found) and _TAIL not in content:
            yield Item(number, called, declared, found)
            return
        look = self._looks.look(content, self._end)
        self._obstacles.update(dict.fromkeys(look.obstacles))
        if not look.things:
            yield Item(number, called, declared, found)
        for each in look.things:
            inner = inner_names(called, each.path)
            kind = "" if each.path else declared
            yield Item(number, inner, kind, each.kinds, each.marks, each.path)

    def _late(self) -> bool:
        if self._clock() < self._end:
            return False
        self._hinder("too_slow", f"more than {self._reach.seconds:g} s")
        return True

    def _hinder(self, trouble: str, why: str) -> None:
        self._obstacles[Obstacle(trouble, why)] = None  # type: ignore[arg-type]  # a literal above
