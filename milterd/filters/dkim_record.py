"""The key record that a signer publishes (RFC 6376 section 3.6.1, RFC 8463 section 4)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from milterd.ports.dkim_public import PublicKey, PublicKeyError, WeakKeyError, parse
from milterd.signed.dkim_tags import TagError, octets, tags, words


class RecordError(ValueError):
    """A record that gives no key for this signature; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key, and what it may be used for.

    `kind` is `k=`.  `testing` is `t=y`, `strict` is `t=s`: then `i=` must have the very domain
    `d=`.  `weak` says why the key must not be relied on, and is empty where it may be.
    """

    kind: str
    key: PublicKey | None
    testing: bool = False
    strict: bool = False
    weak: str = ""


def read(text: bytes) -> KeyRecord:
    """The record as it is in DNS.  Raises RecordError for one that no e-mail signature by
    SHA-256 can use: revoked, for another service, malformed.  `g=` and `n=` mean nothing any more.
    """
    try:
        found = tags(text)
        _check_version(found)
        if b"p" not in found:
            raise RecordError("the key record has no p=")
        if not found[b"p"]:
            raise RecordError("the key is revoked")
        _check_use(found)
        kind = found.get(b"k", b"rsa").decode("ascii", "replace")
        octets_of_key = octets(found[b"p"], "p")
    except TagError as error:
        raise RecordError(f"the key record cannot be read: {error}") from None
    flags = words(found.get(b"t", b""))
    testing, strict = b"y" in flags, b"s" in flags
    try:
        return KeyRecord(kind, parse(kind, octets_of_key), testing, strict)
    except WeakKeyError as error:
        return KeyRecord(kind, None, testing, strict, str(error))
    except PublicKeyError as error:
        raise RecordError(str(error)) from None


def _check_version(found: dict[bytes, bytes]) -> None:
    if b"v" in found and (found[b"v"] != b"DKIM1" or next(iter(found)) != b"v"):
        raise RecordError("the record does not begin with v=DKIM1")


def _check_use(found: dict[bytes, bytes]) -> None:
    services = words(found.get(b"s", b"*"))
    if b"*" not in services and b"email" not in services:
        raise RecordError("s= of the key record does not have e-mail")
    if b"h" in found and b"sha256" not in words(found[b"h"]):
        raise RecordError("h= of the key record does not have sha256")


class Records:
    """Records read before, at most `limit`: reading an RSA key takes longer than using it."""

    def __init__(self, limit: int = 1_000) -> None:
        self._limit = limit
        self._known: OrderedDict[bytes, KeyRecord | RecordError] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, text: bytes) -> KeyRecord:
        """:func:`read`, once for each text."""
        with self._lock:
            found = self._known.get(text)
            if found is not None:
                self._known.move_to_end(text)
        if found is None:
            try:
                found = read(text)
            except RecordError as error:
                found = error
            with self._lock:
                self._known[text] = found
                while len(self._known) > self._limit:
                    self._known.popitem(last=False)
        if isinstance(found, RecordError):
            raise RecordError(str(found))
        return found
