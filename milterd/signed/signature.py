"""The signatures that a mail carries, as values; nothing is verified here."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from milterd.signed.dkim_field import SignatureField


class Kind(enum.Enum):
    """The kinds of signatures, by the names they have in logs."""

    DKIM = "DKIM"
    ARC_MESSAGE = "ARC-Message-Signature"
    ARC_SEAL = "ARC-Seal"
    SMIME = "S/MIME"
    PGP = "OpenPGP"


@dataclass(frozen=True, slots=True)
class FieldSignature:
    """A signature in a header field, the one at `position` from 0 among the mail's fields.

    `field` is what it covers; an ARC-Seal, which covers ARC fields only, has none.  `hop` is
    the `i=` of ARC.  `fault` says why no verifier takes it, whatever its octets; empty where
    one may.
    """

    kind: Kind
    position: int
    domain: str = ""
    selector: str = ""
    hop: int = 0
    field: SignatureField | None = None
    fault: str = ""

    def __str__(self) -> str:
        """As a log has it: `DKIM d=example.net s=s1`."""
        hop = f" i={self.hop}" if self.hop else ""
        return f"{self.kind.value}{hop} d={self.domain or '?'} s={self.selector or '?'}"


@dataclass(frozen=True, slots=True)
class PartSignature:
    """A signature in the body: SHA-256 of what it covers, and of the signature itself.

    `size` is what it covers, in octets; `where` says in a few words where that stands.  `fault`
    says why it is not good as it came; empty where it may be.
    """

    kind: Kind
    covered: bytes
    proof: bytes
    size: int
    where: str
    fault: str = field(default="", compare=False)

    def __str__(self) -> str:
        """As a log has it."""
        return f"{self.kind.value} ({self.where})"


Signature = FieldSignature | PartSignature
