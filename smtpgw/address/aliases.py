"""Local aliases: what aliases(5) makes of a recipient on this machine.

A name becomes addresses, here or elsewhere, or names again, until none is an alias; a name
that is its own alias ends there.  `:include:/file` is a list of the same in a file.  Commands
and files, `|command` and `/file`, are refused: a gateway runs nothing and writes nowhere for
who can edit a table.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from smtpgw.address import form
from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Maps
from smtpgw.address.mailboxes import addresses
from smtpgw.address.standard import Standard
from smtpgw.address.tokens import tokens
from smtpgw.address.virtual import Expansion, Told, Unreasonable

INCLUDE = b":include:"
OWNER = b"owner-"


class Unreadable(Exception):  # noqa: N818 - the name says what the file is
    """A list of addresses that cannot be read; the text is for the log."""


class Kind(enum.Enum):
    """What an alias may name."""

    ADDRESS = "address"
    INCLUDE = "include"
    COMMAND = "command"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Target:
    """One of an alias's values: an internal address, a command, or a path."""

    kind: Kind
    text: bytes


@dataclass(frozen=True, slots=True)
class Expanded:
    """`recipients` are internal addresses.  `refused` says what could not be followed and why.
    `owner` is the sender that errors of this alias go to (owner-alias), or None."""

    recipients: tuple[bytes, ...]
    refused: tuple[str, ...] = ()
    owner: bytes | None = None


@dataclass(frozen=True, slots=True)
class AliasOptions:
    """`depth`: aliases in aliases.  `most`: recipients that one alias becomes."""

    depth: int = 100
    most: int = 10_000


Read = Callable[[bytes], Awaitable[bytes]]
"""The text of an included file.  Raises Unreadable."""
Here = Callable[[bytes], Awaitable[bool]]
"""Whether a domain is of the local class.  Raises Unavailable."""


def targets(value: bytes) -> Iterator[Target]:
    """What an alias's value names."""
    for part in _parts(value):
        plain = form.internal(part) if part.startswith(b'"') else part
        if plain[:9].lower() == INCLUDE:
            yield Target(Kind.INCLUDE, plain[9:].strip())
        elif plain.startswith(b"|"):
            yield Target(Kind.COMMAND, plain[1:].strip())
        elif plain.startswith(b"/") and b"@" not in plain:
            yield Target(Kind.FILE, plain)
        else:
            for each in addresses(part):
                yield Target(Kind.ADDRESS, form.internal(each).lstrip(b"\\"))


def _parts(value: bytes) -> Iterator[bytes]:
    """What commas part, but for those in quotes and comments."""
    begin = 0
    for kind, start, end in tokens(value):
        if kind == "mark" and value[start:end] == b",":
            yield value[begin:start].strip()
            begin = end
    yield value[begin:].strip()


def included(text: bytes) -> Iterator[Target]:
    """What a file of `:include:` names: lines as values, `#` begins a comment."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith(b"#"):
            yield from targets(line)


@dataclass(slots=True)
class _Work:
    found: dict[bytes, bytes] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    done: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Aliases:
    """alias_maps, ready for use."""

    maps: Maps
    standard: Standard
    delimiter: Delimiter
    here: Here
    read: Read
    options: AliasOptions = AliasOptions()

    async def expand(self, address: bytes, told: Told | None = None) -> Expanded | None:
        """What an internal address of this machine becomes; None where it is no alias.  A file
        that cannot be read is refused like a command.  Raises Unavailable, Unreasonable."""
        local, _ = form.split(address)
        found = await self._find(local)
        if found is None:
            return None
        work = _Work()
        await self._follow(address, work, 0, told)
        name = self.delimiter.split(local)[0].lower()
        owner = None
        special = self.delimiter.owner_request and not name.startswith(OWNER)
        if special and await self.maps.find(form.quote(OWNER + name)):
            owner = self.standard.local(OWNER + name)
        return Expanded(tuple(work.found.values()), tuple(work.refused), owner)

    async def _find(self, local: bytes) -> tuple[bytes, str] | None:
        """The name with its extension, then without; what includes an `@` is no name here."""
        bare, _ = self.delimiter.split(local)
        for name in dict.fromkeys((local, bare)):
            found = await self.maps.find(form.quote(name.lower()), name != local)
            if found is not None:
                return found.value, found.where
        return None

    async def _follow(self, address: bytes, work: _Work, depth: int, told: Told | None) -> None:
        local, domain = form.split(address)
        folded = address.lower()
        elsewhere = bool(domain) and not await self.here(domain or b"")
        found = None if elsewhere or folded in work.done else await self._find(local)
        if found is None:
            work.found.setdefault(folded, address)
            if len(work.found) > self.options.most:
                raise Unreasonable("an alias becomes too many recipients")
            return
        if depth >= self.options.depth:
            raise Unreasonable(f"aliases of {address!r} lead too deep")
        work.done.add(folded)
        value, where = found
        those = list(targets(value))
        if told is not None:
            told(Expansion(address, tuple(each.text for each in those), where))
        await self._targets(those, work, depth, told)

    async def _targets(
        self, those: list[Target], work: _Work, depth: int, told: Told | None
    ) -> None:
        for each in those:
            if each.kind is Kind.ADDRESS:
                await self._follow(self.standard.local(each.text), work, depth + 1, told)
            elif each.kind is not Kind.INCLUDE:
                work.refused.append(f"delivery to a {each.kind.value} is refused: {_text(each)}")
            elif depth >= self.options.depth:
                raise Unreasonable("included files lead too deep")
            else:
                await self._included(each, work, depth, told)

    async def _included(self, file: Target, work: _Work, depth: int, told: Told | None) -> None:
        try:
            text = await self.read(file.text)
        except Unreadable as error:
            if told is not None:
                told(Expansion(INCLUDE + file.text, (), str(error)))
            work.refused.append(f"a list of addresses cannot be read: {_text(file)}")
            return
        await self._targets(list(included(text)), work, depth + 1, told)


def _text(target: Target) -> str:
    return target.text.decode("utf-8", "replace")
