"""Signing with the keys that `milterd dkim rotate` has brought so far."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from milterd.core.decision import Trace
from milterd.filters.dkim_author import Author
from milterd.filters.dkim_choice import Rows, Signer, SigningKey
from milterd.ports.dkim_keys import KeyStore
from milterd.ports.dkim_state import Stage, StateError, read
from milterd.ports.keys import PrivateKey


class Rotation:
    """The keys of a state file that are at the stage of signing.

    The file is looked at (stat) for each mail: a switch counts from the next one on.
    `problems` are those it has now.
    """

    waits = False

    def __init__(self, path: Path, store: KeyStore) -> None:
        self._path, self._store = path, store
        self._stamp: tuple[int, int] | None = None
        self._rows = Rows((), store)
        self._lock = threading.Lock()
        self.problems: list[str] = []
        try:
            self._current()
        except StateError as error:
            self.problems.append(str(error))

    def signers(self, author: Author, trace: Trace | None) -> tuple[Signer, ...]:
        """See :meth:`~milterd.filters.dkim_choice.Chooser.signers`; raises StateError too."""
        return self._current().signers(author, trace)

    def known(self) -> Iterable[tuple[str, str, PrivateKey]]:
        """See :meth:`~milterd.filters.dkim_choice.Chooser.known`."""
        return self._current().known()

    def _current(self) -> Rows:
        """The rows of the file as it is now."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  # for every mail
            stamp = (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            stamp = (0, 0)
        except OSError as error:
            raise StateError(f"state file {self._path}: {error.strerror}") from error
        with self._lock:
            if stamp != self._stamp:
                rows = Rows(self._signing(), self._store)
                if rows.problems:
                    raise StateError(f"state file {self._path}: {'; '.join(rows.problems)}")
                self._rows, self._stamp = rows, stamp
            return self._rows

    def _signing(self) -> list[SigningKey]:
        return [
            SigningKey(each.domain, each.selector, Path(each.key), each.subdomains)
            for each in read(self._path)
            if each.stage is Stage.SIGNING
        ]
