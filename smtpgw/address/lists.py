"""Lists of domains, as mydestination and relay_domains have them (match_list(3), domain_list(3)).

    example.com  .example.com  !gone.example.com  hash:/etc/postfix/domains  /etc/postfix/file

The first pattern that fits decides; `!` before it makes it a no.  A table is asked for the
domain and for those above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from smtpgw.address.find import Maps, Tried, ask
from smtpgw.address.keys import Key, Strategy, domain_keys
from smtpgw.address.remembered import Changes, watched


@dataclass(frozen=True, slots=True)
class Element:
    """A pattern: a name, or a table; `negated` says that what fits is not in the list."""

    name: bytes = b""
    maps: Maps | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class _Names:
    """A list of names alone: what each is and, where it stands for those below it, what these
    end in; with their places in the list, since the first that fits is told."""

    same: Mapping[bytes, tuple[int, str]]
    ends: Mapping[bytes, tuple[int, str]]

    def match(self, domain: bytes) -> str:
        wanted = folded(domain)
        first = self.same.get(wanted)
        if self.ends:
            at = wanted.find(b".")
            while at >= 0:
                found = self.ends.get(wanted[at:])
                if found is not None and (first is None or found < first):
                    first = found
                at = wanted.find(b".", at + 1)
        return first[1] if first is not None else ""


def _names(elements: Sequence[Element], parents: bool, below: bool) -> _Names:
    same: dict[bytes, tuple[int, str]] = {}
    ends: dict[bytes, tuple[int, str]] = {}
    for at, each in enumerate(elements):
        name = folded(each.name)
        place = at, each.name.decode("utf-8", "replace")
        same.setdefault(name, place)
        dotted = name.startswith(b".")
        if below and dotted is not parents:
            ends.setdefault(name if dotted else b"." + name, place)
    return _Names(same, ends)


@dataclass(frozen=True, slots=True)
class DomainList:
    """`parents` says that a name stands for all below it as well
    (parent_domain_matches_subdomains); without it `.name` does, and only for those."""

    elements: Sequence[Element] = ()
    parents: bool = False
    below: bool = True
    """Whether names above the domain count at all: string_match_list(3) looks at none."""
    _names: _Names | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = not any(each.maps is not None or each.negated for each in self.elements)
        names = _names(self.elements, self.parents, self.below) if plain else None
        object.__setattr__(self, "_names", names)

    def changes(self) -> tuple[Changes, ...] | None:
        """What to look at to know that the list is what it was; None if only asking tells."""
        return watched(each.maps for each in self.elements)

    async def match(self, domain: bytes, tried: Tried | None = None) -> str:
        """What put the domain into the list, for people; empty if it is not in it.
        Raises Unavailable."""
        if self._names is not None:
            return self._names.match(domain)
        for each in self.elements:
            found = await self._fits(each, domain, tried)
            if found:
                return "" if each.negated else found
        return ""

    async def _fits(self, element: Element, domain: bytes, tried: Tried | None) -> str:
        if element.maps is None:
            return element.name.decode("utf-8", "replace") if self._named(element, domain) else ""
        style = Strategy.PARENT if self.parents else Strategy.DOT_PARENT
        for at, key in enumerate(domain_keys(domain, style if self.below else Strategy.DOMAIN)):
            # Tables of patterns are asked for the name itself only.
            found = await ask(element.maps, key if at else Key(key.text), tried)
            if found is not None:
                return found.where or key.text.decode("utf-8", "replace")
        return ""

    def _named(self, element: Element, domain: bytes) -> bool:
        name, wanted = folded(element.name), folded(domain)
        if name == wanted:
            return True
        if not self.below:
            return False
        if name.startswith(b"."):
            return not self.parents and wanted.endswith(name)
        return self.parents and wanted.endswith(b"." + name)


def folded(domain: bytes) -> bytes:
    """A domain as domains are compared; octets that are no UTF-8 are folded as ASCII."""
    if domain.isascii():
        return domain.lower()
    try:
        return domain.decode().casefold().encode()
    except UnicodeDecodeError:
        return domain.lower()


NOTHING = DomainList()
"""An empty list."""
