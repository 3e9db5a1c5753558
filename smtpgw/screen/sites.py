"""The lists of postscreen_dnsbl_sites: which are asked, and what their answers weigh.  Pure.

    list.example.org  list.example.org*2  list.example.org=127.0.0.[2;4..8]*-3

A domain, after `=` a pattern that an answer has to fit, after `*` a weight (postconf(5)).  A
domain may stand there several times; it is asked once, and every pattern that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from smtpgw.dns.answers import IpAddress, host_name

LONGEST = 1000
"""Characters of one entry: it comes from a postmaster, or from someone who is no postmaster."""

_WEIGHT = re.compile(r"[+-]?[0-9]{1,9}\Z")
_PART = re.compile(r"(?P<one>[0-9]{1,9})(?:\.\.(?P<end>[0-9]{1,9}))?\Z")
_FIELD = re.compile(r"\[(?P<several>[^\[\]]*)\]|(?P<one>[0-9]+)")

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the octets of an address may be: for each, ranges with both their ends."""

    octets: tuple[Ranges, ...]

    def fits(self, address: IPv4Address) -> bool:
        """Whether an answer is meant."""
        pairs = zip(address.packed, self.octets, strict=True)
        return all(any(low <= octet <= high for low, high in each) for octet, each in pairs)


@dataclass(frozen=True, slots=True)
class Rule:
    """What an answer that fits is worth; without a pattern, every answer fits."""

    weight: int = 1
    pattern: Pattern | None = None

    def fits(self, answers: Iterable[IPv4Address]) -> bool:
        """Whether one of the answers is meant."""
        return self.pattern is None or any(map(self.pattern.fits, answers))


@dataclass(frozen=True, slots=True)
class Site:
    """A list, and its rules in the order in which they were written."""

    domain: str
    rules: tuple[Rule, ...]

    def question(self, client: IpAddress) -> str:
        """The name to ask for a client (RFC 5782 section 2)."""
        reverse = client.reverse_pointer.rsplit(".", 2)[0]
        return f"{reverse}.{self.domain}"


def parse_sites(entries: Iterable[str]) -> tuple[Site, ...]:
    """The lists, each once.  Raises ValueError for an entry that is none."""
    found: dict[str, tuple[Rule, ...]] = {}
    for each in entries:
        domain, rule = parse_entry(each)
        found[domain] = (*found.get(domain, ()), rule)
    return tuple(Site(domain, rules) for domain, rules in found.items())


def parse_entry(text: str) -> tuple[str, Rule]:
    """One `domain=pattern*weight`.  Raises ValueError saying what is wrong where."""
    if len(text) > LONGEST:
        raise ValueError(f"an entry of {len(text)} characters, expected {LONGEST} at most")
    rest, star, weight = text.partition("*")
    if star and _WEIGHT.match(weight) is None:
        raise ValueError(f"{text!a}: expected a whole number behind *, not {weight!a}")
    domain, equals, pattern = rest.partition("=")
    try:
        name = host_name(domain)
    except ValueError:
        raise ValueError(f"{text!a}: expected the domain of a list, not {domain!a}") from None
    parsed = parse_pattern(pattern, text) if equals else None
    return name, Rule(int(weight) if star else 1, parsed)


def parse_pattern(pattern: str, entry: str = "") -> Pattern:
    """Four octets with dots between them, each a number or `[n;n..n]`.  Raises ValueError."""
    entry = entry or pattern
    if pattern.startswith("="):
        meant = pattern.lstrip("=")
        raise ValueError(f"{entry!a}: expected one = only; did you mean ={meant}?")
    octets = []
    at = 0
    for number in range(4):
        if number:
            if pattern[at : at + 1] != ".":
                raise ValueError(f"{entry!a}: expected four octets with dots between them")
            at += 1
        match = _FIELD.match(pattern, at)
        if match is None:
            found = pattern[at:]
            raise ValueError(f"{entry!a}: expected a number or [...] where {found!a} stands")
        octets.append(_ranges(match["one"] or match["several"], entry))
        at = match.end()
    if at != len(pattern):
        raise ValueError(f"{entry!a}: expected nothing behind the fourth octet")
    return Pattern(tuple(octets))


def _ranges(text: str, entry: str) -> Ranges:
    found = []
    for each in text.split(";"):
        match = _PART.match(each)
        low = int(match["one"]) if match else 256
        high = int(match["end"] or low) if match else 0
        if not low <= high <= 255:
            raise ValueError(f"{entry!a}: expected numbers of 0 to 255, not {each!a}")
        found.append((low, high))
    return tuple(found)
