"""Which keys stand for an address in a table, in Postfix's order (mail_addr_find(3)).  Pure.

    user+ext@domain  user@domain  user+ext  user  @domain  domain  .parent

Which of them are asked for depends on what the table is for: a :class:`Strategy`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from smtpgw.address import form
from smtpgw.address.extension import Delimiter


class Strategy(enum.Flag):
    """Kinds of keys."""

    FULL = enum.auto()
    """The address as it is."""
    NOEXT = enum.auto()
    """The address without its extension."""
    LOCALPART_IF_LOCAL = enum.auto()
    """The local part alone, with and without extension, where the domain is ours."""
    LOCALPART_AT = enum.auto()
    """`user@`, with and without extension (access(5))."""
    AT_DOMAIN = enum.auto()
    """`@domain`."""
    DOMAIN = enum.auto()
    """`domain`."""
    PARENT = enum.auto()
    """Each domain above it, as `parent` (parent_domain_matches_subdomains has the table)."""
    DOT_PARENT = enum.auto()
    """Each domain above it, as `.parent` (parent_domain_matches_subdomains has it not)."""

    DEFAULT = FULL | NOEXT | LOCALPART_IF_LOCAL | AT_DOMAIN
    """canonical(5), virtual(5), generic(5), relocated(5) and lists of recipients."""


# Numbers are compared much faster than flags, and this is asked for every address of every mail.
_FULL, _NOEXT = Strategy.FULL.value, Strategy.NOEXT.value
_LOCALPART_IF_LOCAL, _LOCALPART_AT = Strategy.LOCALPART_IF_LOCAL.value, Strategy.LOCALPART_AT.value
_AT_DOMAIN, _DOMAIN = Strategy.AT_DOMAIN.value, Strategy.DOMAIN.value
_PARENT, _DOT_PARENT = Strategy.PARENT.value, Strategy.DOT_PARENT.value


@dataclass(frozen=True, slots=True)
class Key:
    """`text` is what a table is asked for, `other` what it is asked for if `text` is not found:
    the same address without its quotes.  A `partial` key is one that only tables of fixed
    strings are asked for.  `extension` is what the key lost of the address."""

    text: bytes
    other: bytes = b""
    partial: bool = False
    extension: bytes = b""


def keys(
    address: bytes, strategy: Strategy, delimiter: Delimiter, *, ours: bool = False
) -> Iterator[Key]:
    """The keys of an internal address; `ours` says that its domain is one of ours (myorigin,
    mydestination, our network addresses)."""
    wanted = strategy.value
    bare, extension = delimiter.bare(address)
    local, domain = form.split(address)
    if wanted & _FULL:
        yield _key(address)
    if wanted & _NOEXT and extension:
        yield _key(bare, partial=True, extension=extension)
    if domain is None:
        return
    if wanted & _LOCALPART_IF_LOCAL and ours:
        yield from _locals(local, delimiter, b"")
    if wanted & _AT_DOMAIN:
        yield Key(b"@" + domain, partial=True)
    if wanted & _DOMAIN:
        yield from domain_keys(domain, strategy)
    if wanted & _LOCALPART_AT:
        yield from _locals(local, delimiter, b"@")


def domain_keys(domain: bytes, strategy: Strategy) -> Iterator[Key]:
    """The keys of a domain: itself, and those above it."""
    yield Key(domain, partial=True)
    wanted = strategy.value
    at = domain.find(b".", 1)
    while at >= 0 and domain[at + 1 :]:
        if wanted & _PARENT:
            yield Key(domain[at + 1 :], partial=True)
        elif wanted & _DOT_PARENT:
            yield Key(domain[at:], partial=True)
        at = domain.find(b".", at + 1)


def _locals(local: bytes, delimiter: Delimiter, end: bytes) -> Iterator[Key]:
    bare, extension = delimiter.split(local)
    yield _key(local, end, partial=True)
    if extension:
        yield _key(bare, end, partial=True, extension=extension)


def _key(address: bytes, end: bytes = b"", *, partial: bool = False, extension: bytes = b"") -> Key:
    written = (form.external(address) if b"@" in address else form.quote(address)) + end
    plain = address + end
    return Key(written, plain if plain != written else b"", partial, extension)
