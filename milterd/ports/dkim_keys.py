"""Private keys at hand: read when first asked for, and again when their file is another."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from milterd.ports.keys import CREDENTIAL, KeyFileError, SigningKey, load, located, parse

LIMIT = 10_000
"""Keys kept at most."""

_Stamp = tuple[int, int, int, int]
_NO_FILE = (0, 0, 0, 0)
_IN_TABLE = Path("(in the key table)")


class KeyStore:
    """Keys by the text that names them: a path, `credential:NAME`, or the key itself.

    Several threads may ask.  A file is looked at (stat) for each question, so a key that
    was put in its place is used from the next mail on.
    """

    def __init__(self, groups: frozenset[str] = frozenset()) -> None:
        self._groups = groups
        self._kept: OrderedDict[str, tuple[_Stamp, SigningKey]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> SigningKey:
        """The key that a table's row means (opendkim.conf(5), KeyTable): a path begins with `/`,
        `./` or `../`, a credential with `credential:`; all else is a key.  Raises KeyFileError."""
        if text.startswith(("/", "./", "../", CREDENTIAL)):
            return self.file(Path(text))
        return self._get(text, _NO_FILE, lambda: parse(_IN_TABLE, text.encode("ascii", "replace")))

    def file(self, path: Path) -> SigningKey:
        """The key in a file.  Raises KeyFileError, which never quotes a key."""
        return self._get(str(path), _stamp(path), lambda: load(path, self._groups))

    def _get(self, name: str, stamp: _Stamp, read: Callable[[], SigningKey]) -> SigningKey:
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept[0] == stamp:
                return kept[1]
        key = read()
        with self._lock:
            self._kept[name] = stamp, key
            while len(self._kept) > LIMIT:
                self._kept.popitem(last=False)
        return key


def _stamp(path: Path) -> _Stamp:
    """What changes when a file does."""
    try:
        found = os.stat(located(path))  # noqa: PTH116  # for every mail
    except OSError as error:
        raise KeyFileError(
            path, f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
