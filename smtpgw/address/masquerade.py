"""Address masquerading: `user@host.example.com` shows as `user@example.com` (masquerade_domains
of postconf(5)).  Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from smtpgw.address import form


@dataclass(frozen=True, slots=True)
class Masquerade:
    """`domains` in their order, the first that fits decides; `!name` leaves what is at or below
    `name` alone.  `exceptions`: local parts that are left alone, in lower case."""

    domains: Sequence[bytes]
    exceptions: Collection[bytes] = ()

    def rewrite(self, address: bytes) -> bytes:
        """An internal address."""
        local, domain = form.split(address)
        if not domain or local.lower() in self.exceptions:
            return address
        wanted = domain.lower()
        for each in self.domains:
            name = each.lower().lstrip(b"!")
            if wanted == name or wanted.endswith(b"." + name):
                kept = each.startswith(b"!") or wanted == name
                return address if kept else b"%b@%b" % (local, each)
        return address
