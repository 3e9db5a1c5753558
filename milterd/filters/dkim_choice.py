"""Which keys sign for an author: by rows of the settings, by OpenDKIM's tables, by a rotation."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from milterd.core.decision import Trace, Tried
from milterd.filters.dkim_author import Author
from milterd.ports.dkim_keys import KeyStore
from milterd.ports.keys import KeyFileError, PrivateKey
from milterd.signed.dkim_names import is_domain, is_within, key_name

REMEMBERED = 256
"""Domains of authors whose signers are remembered."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One row of the signing table.

    Mail from `domain` is signed under `selector` with the key in the file `key`;
    with `subdomains`, mail from any domain below it too, where no row of the
    table is nearer.  `identity` is `i=`, in which `%` stands for the author's domain.
    """

    domain: str
    selector: str
    key: Path
    subdomains: bool = False
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Signer:
    """A signature to be made.  `identity` is `i=`; empty leaves it out."""

    domain: str
    selector: str
    key: PrivateKey
    identity: str = ""


class Chooser(Protocol):
    """Who knows keys."""

    @property
    def waits(self) -> bool:
        """Whether a database is asked for them, which may take its time."""
        ...

    def signers(self, author: Author, trace: Trace | None) -> tuple[Signer, ...]:
        """The signatures to make; none where it has no key for that author.

        Raises :class:`~milterd.ports.dkim_tables.TableDownError` and KeyFileError.
        """
        ...

    def known(self) -> Iterable[tuple[str, str, PrivateKey]]:
        """(domain, selector, key) of those that are known beforehand."""
        ...


@dataclass(frozen=True, slots=True)
class _Row:
    domain: str
    selector: str
    subdomains: bool
    identity: str
    key: PrivateKey


class Rows:
    """The keys of a signing table that the settings hold.  `problems` are those of the rows."""

    waits = False

    def __init__(self, table: Iterable[SigningKey], keys: KeyStore) -> None:
        self.problems: list[str] = []
        self._rows = tuple(self._load(table, keys))
        self._usual = functools.lru_cache(REMEMBERED)(self._signers)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def signers(self, author: Author, trace: Trace | None) -> tuple[Signer, ...]:
        """The keys of the author's domain, or of the nearest one above that takes it in."""
        if trace is not None:
            self._tell(author.domain, self._nearest(author.domain), trace)
        return self._usual(author.domain)

    def _signers(self, domain: str) -> tuple[Signer, ...]:
        return tuple(
            Signer(each.domain, each.selector, each.key, identity(each.identity, each, domain))
            for each in self._nearest(domain)
        )

    def known(self) -> Iterator[tuple[str, str, PrivateKey]]:
        """See :meth:`Chooser.known`."""
        for each in self._rows:
            yield each.domain, each.selector, each.key

    def _nearest(self, author: str) -> list[_Row]:
        domain, rest = author, author
        while rest:
            found = [
                each
                for each in self._rows
                if each.domain == domain and (each.subdomains or domain == author)
            ]
            if found:
                return found
            _, _, rest = domain.partition(".")
            domain = rest
        return []

    def _tell(self, author: str, signers: list[_Row], trace: Trace) -> None:
        """Each row of the signing table, and why it signs for that author or does not."""
        for number, row in enumerate(self._rows, 1):
            if row in signers:
                outcome = "signs"
            elif not author.endswith(f".{row.domain}"):
                outcome = f"{author} is another domain"
            elif not row.subdomains:
                outcome = f"{author} is below it, and subdomains is false"
            else:
                outcome = "a nearer row signs"
            trace(Tried(f"signing table, row {number}: {row.domain} by {row.selector}", outcome))

    def _load(self, table: Iterable[SigningKey], keys: KeyStore) -> Iterator[_Row]:
        seen: set[tuple[str, str]] = set()
        for row in table:
            domain = row.domain.lower()
            problem = bad_name(domain, row.selector, row.domain)
            if (domain, row.selector) in seen:
                problem = problem or f"{domain} has selector {row.selector} twice"
            if problem:
                self.problems.append(f"signing table: {problem}")
            seen.add((domain, row.selector))
            try:
                key = keys.file(row.key)
            except KeyFileError as error:
                self.problems.append(str(error))
            else:
                yield _Row(domain, row.selector, row.subdomains, row.identity, key)


class _Named(Protocol):
    @property
    def domain(self) -> str: ...


def identity(text: str, signer: _Named, author: str) -> str:
    """The `i=` that a row asks for, for an author of that domain; empty where it is none, or in
    conflict with `d=` (RFC 6376 section 3.5: it has to be within the signing domain)."""
    if not text:
        return ""
    found = text.replace("%", author)
    local, at, domain = found.rpartition("@")
    if not at or not is_domain(domain) or not is_within(domain.lower(), signer.domain.lower()):
        return ""
    return f"{_quoted_printable(local)}@{domain}"


def _quoted_printable(local: str) -> str:
    """DKIM's own kind (RFC 6376 section 2.11)."""
    return "".join(
        chr(each) if 0x21 <= each <= 0x7E and each not in b";=" else f"={each:02X}"
        for each in local.encode("utf-8", "surrogateescape")
    )


def bad_name(domain: str, selector: str, shown: str) -> str:
    """What is wrong with a signature's name; empty if nothing is."""
    if not is_domain(domain):
        return f"{shown!r} is not a domain name in ASCII"
    if not is_domain(selector):
        return f"{selector!r} is not a selector"
    if key_name(domain, selector) is None:
        return f"{selector}._domainkey.{domain} is longer than DNS allows"
    return ""
