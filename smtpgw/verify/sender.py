"""Who probes come from (address_verify_sender, address_verify_sender_ttl).

With a time to live the local part ends with the number of the period that it is made in, so that
nobody can keep an address that our own restrictions let through: one of the period before and one
of the period after count too.
"""

from __future__ import annotations

from dataclasses import dataclass

_DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZ"
"""31 of them, without vowels, so that no words come about."""


@dataclass(frozen=True, slots=True)
class ProbeSender:
    """`address` in full, empty for the null sender; `ttl` in seconds, 0 for none."""

    address: bytes = b""
    ttl: float = 0.0

    def at(self, now: float) -> bytes:
        """The sender of a probe that is made now (seconds since 1970)."""
        if not self.address or not self.ttl:
            return self.address
        return self._with(int(now // self.ttl))

    def knows(self, address: bytes, now: float) -> bool:
        """Whether a mail to this address answers a probe of ours: smtpd refuses it for nothing
        (smtpd(8): otherwise two servers that probe each other would refuse both)."""
        if not self.address:
            return False
        if not self.ttl:
            return address.lower() == self.address.lower()
        period = int(now // self.ttl)
        those = (self._with(each).lower() for each in (period - 1, period, period + 1))
        return address.lower() in those

    def _with(self, period: int) -> bytes:
        digits = ""
        while period:
            period, digit = divmod(period, len(_DIGITS))
            digits = _DIGITS[digit] + digits
        local, at, domain = self.address.rpartition(b"@")
        return local + digits.encode() + at + domain
