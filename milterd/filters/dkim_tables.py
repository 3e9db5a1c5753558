"""OpenDKIM's KeyTable and SigningTable, read as they are (opendkim.conf(5))."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milterd.core.decision import Trace, Tried
from milterd.filters.dkim_author import Author
from milterd.filters.dkim_choice import Signer, bad_name, identity
from milterd.ports.dkim_keys import KeyStore
from milterd.ports.dkim_tables import (
    MapTable,
    PatternTable,
    Table,
    TableDownError,
    TableError,
    open_table,
)
from milterd.ports.keys import KeyFileError, PrivateKey

_READ = (MapTable, PatternTable)
"""Tables that are in memory."""


@dataclass(frozen=True, slots=True)
class _KeyRow:
    """A KeyTable's value: domain (or `%`), selector, and the key or where it is."""

    domain: str
    selector: str
    key: str


class OpendkimTables:
    """Signers by both tables.  `several` is MultipleSignatures: all that fit sign, not only the
    first.  `problems` are all that is wrong with tables that are read at start."""

    def __init__(self, keys: str, signing: str, *, several: bool, store: KeyStore) -> None:
        self.problems: list[str] = []
        self._several, self._store = several, store
        self._keys, self._signing = self._open(keys), self._open(signing)
        if not self.problems:
            self.problems += [*self._bad_keys(), *self._bad_signers()]

    @property
    def waits(self) -> bool:
        """See :attr:`~milterd.filters.dkim_choice.Chooser.waits`: a server may be slow, and a file
        be locked by one who writes."""
        return not all(isinstance(each, _READ) for each in (self._keys, self._signing))

    def signers(self, author: Author, trace: Trace | None) -> tuple[Signer, ...]:
        """See :meth:`~milterd.filters.dkim_choice.Chooser.signers`."""
        found = []
        for key, value in self._rows(author):
            signer = self._signer(value, author)
            found.append(signer)
            if trace is not None:
                outcome = f"signs: {signer.domain} by {signer.selector}"
                trace(Tried(f"{self._signing.name}: {key}", outcome))
            if not self._several:
                break
        if trace is not None and not found:
            trace(Tried(self._signing.name, "no row fits"))
        return tuple(found)

    def known(self) -> Iterator[tuple[str, str, PrivateKey]]:
        """See :meth:`~milterd.filters.dkim_choice.Chooser.known`."""
        for _, row in self._fixed_rows():
            if row.domain != "%" and "%" not in row.key:
                yield row.domain.lower(), row.selector, self._store.get(row.key)

    def _open(self, text: str) -> Table:
        try:
            return open_table(text)
        except TableError as error:
            self.problems.append(str(error))
            return MapTable(text, {})

    def _rows(self, author: Author) -> Iterator[tuple[str, str]]:
        """What fits the author: the row's key, and its value."""
        if isinstance(self._signing, PatternTable):
            yield from self._signing.matches(author.address)
            return
        for key in lookups(author):
            value = self._signing.get(key)
            if value is not None:
                yield key, value

    def _signer(self, value: str, author: Author) -> Signer:
        name, _, wanted = value.partition(":")
        name = author.domain if name.strip() == "%" else name.strip()
        text = self._keys.get(name)
        if text is None:
            raise TableDownError(f"{self._keys.name} has no key {name}")
        row = _key_row(text)
        if row is None:
            raise TableDownError(f"{self._keys.name}: {name} is not domain:selector:key")
        domain = author.domain if row.domain == "%" else row.domain.lower()
        problem = bad_name(domain, row.selector, domain)
        if problem:
            raise TableDownError(f"{self._keys.name}: {name}: {problem}")
        # No "/" can come in with a domain: is_domain has seen to it.
        key = row.key.replace("%", author.domain) if _is_path(row.key) else row.key
        signer = Signer(domain, row.selector, self._store.get(key))
        return Signer(
            domain, row.selector, signer.key, identity(wanted.strip(), signer, author.domain)
        )

    def _fixed_rows(self) -> Iterator[tuple[str, _KeyRow]]:
        if isinstance(self._keys, MapTable | PatternTable):
            for name, value in self._keys.values():
                row = _key_row(value)
                if row is not None:
                    yield name, row

    def _bad_keys(self) -> Iterator[str]:
        """What is wrong in a key table that is a text file."""
        if not isinstance(self._keys, MapTable | PatternTable):
            return
        for name, value in self._keys.values():
            row = _key_row(value)
            if row is None:
                yield f"{self._keys.name}: {name} is not domain:selector:key"
                continue
            domain = "example.net" if row.domain == "%" else row.domain.lower()
            problem = bad_name(domain, row.selector, row.domain)
            if problem:
                yield f"{self._keys.name}: {name}: {problem}"
            if "%" not in row.key:
                try:
                    self._store.get(row.key)
                except KeyFileError as error:
                    yield f"{self._keys.name}: {name}: {error}"

    def _bad_signers(self) -> Iterator[str]:
        """Rows of a signing table that name a key which is not there, in text files."""
        if not isinstance(self._keys, MapTable | PatternTable):
            return
        if isinstance(self._signing, MapTable | PatternTable):
            for key, value in self._signing.values():
                name = value.partition(":")[0].strip()
                if name != "%" and self._keys.get(name) is None:
                    yield f"{self._signing.name}: {key}: {self._keys.name} has no key {name}"


def lookups(author: Author) -> Iterator[str]:
    """The keys that a table without patterns is asked for, in OpenDKIM's order."""
    local, domain = author.address.rpartition("@")[0], author.domain
    above = [domain[at:] for at, sign in enumerate(domain) if sign == "."]
    yield f"{local}@{domain}"
    yield domain
    yield from (f"{local}@{each}" for each in above)
    yield from above
    yield f"{local}@*"
    yield "*"


def _key_row(text: str) -> _KeyRow | None:
    parts = [each.strip() for each in text.split(":", 2)]
    return _KeyRow(*parts) if len(parts) == 3 and all(parts) else None


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../"))
