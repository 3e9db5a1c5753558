"""Address extensions: `user+news` is `user` with the extension `+news` (postconf(5),
recipient_delimiter).  Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from smtpgw.address import form

_WHOLE = frozenset({b"postmaster", b"mailer-daemon", b"double-bounce"})
"""Local parts that are never split."""


@dataclass(frozen=True, slots=True)
class Delimiter:
    """`characters`: each of them may begin an extension; none, and nothing is split.
    `owner_request`: owner-list and list-request stay whole though `-` is one of them
    (owner_request_special)."""

    characters: bytes = b""
    owner_request: bool = True

    def split(self, local: bytes) -> tuple[bytes, bytes]:
        """The local part without its extension, and the extension with its delimiter (empty
        where there is none).  split_addr(3): the first delimiter counts, and what stands before
        it is never empty."""
        if not self.characters or self._kept_whole(local.lower()):
            return local, b""
        match = re.search(b"[%b]" % re.escape(self.characters), local)
        if match is None or match.start() == 0:
            return local, b""
        return local[: match.start()], local[match.start() :]

    def bare(self, address: bytes) -> tuple[bytes, bytes]:
        """The same for an internal address."""
        local, domain = form.split(address)
        local, extension = self.split(local)
        return (local if domain is None else b"%b@%b" % (local, domain)), extension

    def _kept_whole(self, local: bytes) -> bool:
        if local in _WHOLE:
            return True
        special = self.owner_request and b"-" in self.characters
        return special and (local.startswith(b"owner-") or _request(local))


def _request(local: bytes) -> bool:
    return local.endswith(b"-request") and len(local) > len(b"-request")
