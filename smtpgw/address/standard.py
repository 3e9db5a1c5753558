"""Addresses in standard form, as trivial-rewrite(8) makes them: `user` becomes
`user@myorigin`, `site!user` `user@site`, `user%site` `user@site`, `user@host`
`user@host.mydomain`.  Pure.

Internal addresses (:mod:`smtpgw.address.form`) in, internal addresses out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ROUTE = re.compile(rb"@[^:@]*(?:,@[^:,@]*)*:")


@dataclass(frozen=True, slots=True)
class StandardOptions:
    """Postfix's parameters of the same names (postconf(5))."""

    myorigin: bytes = b"localhost"
    mydomain: bytes = b""
    append_at_myorigin: bool = True
    append_dot_mydomain: bool = False
    swap_bangpath: bool = True
    allow_percent_hack: bool = True


class Standard:
    """The rules.  `origin` and `domain` are given apart, since mail of others has its own
    (remote_header_rewrite_domain)."""

    def __init__(self, options: StandardOptions) -> None:
        self._options = options

    @property
    def origin(self) -> bytes:
        """The domain of an address that has none."""
        return self._options.myorigin

    def local(self, address: bytes) -> bytes:
        """For mail of this machine and envelope addresses."""
        return self._rewrite(address, self._options.myorigin, self._options.mydomain)

    def remote(self, address: bytes, domain: bytes) -> bytes:
        """For header fields of others' mail (remote_header_rewrite_domain)."""
        return self._rewrite(address, domain, domain)

    def _rewrite(self, address: bytes, origin: bytes, domain: bytes) -> bytes:
        if address == b"@":
            return b""
        route = _ROUTE.match(address)
        if route is not None:
            address = address[route.end() :]
        if not address:
            return address
        address = self.routed(address)
        if b"@" not in address and self._options.append_at_myorigin and origin:
            address += b"@" + origin
        return _without_dot(self._with_domain(address, domain))

    def routed(self, address: bytes) -> bytes:
        """Old ways of saying where an address without `@` is; one with it stays as it is."""
        if b"@" in address:
            return address
        if self._options.swap_bangpath and b"!" in address:
            site, _, user = address.partition(b"!")
            return b"%b@%b" % (user, site)
        if self._options.allow_percent_hack and b"%" in address:
            user, _, site = address.rpartition(b"%")
            return b"%b@%b" % (user, site)
        return address

    def _with_domain(self, address: bytes, domain: bytes) -> bytes:
        _, at, host = address.rpartition(b"@")
        whole = not at or not host or b"." in host or host.startswith(b"[")
        if whole or not self._options.append_dot_mydomain or not domain:
            return address
        return b"%b.%b" % (address, domain)


def _without_dot(address: bytes) -> bytes:
    """One dot at the end of the domain counts for nothing; more, or `@.`, is an error that is
    left for others to see."""
    _, at, host = address.rpartition(b"@")
    if at and len(host) > 1 and host.endswith(b".") and not host.endswith(b".."):
        return address[:-1]
    return address
