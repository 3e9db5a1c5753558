"""What the store keeps of a mail in quarantine beside the mail: why it is there, and what its
release needs to send it down the same way again.

It stands among the facts of the mail, under the mail's checksum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from milterd.core.finding import Found

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Room:
    """How many mails the quarantine of a shard may hold, and octets in them."""

    mails: int = 10_000
    octets: int = 10 * 1024**3


@dataclass(frozen=True, slots=True)
class Caught:
    """`findings` caught the mail; `passing` are those that it was released from before, which do
    not count again.  `listener` and `macros` are those of the transaction that it came by, and
    `hidden` the places of the header fields that milters are not shown.

    `hold`, `redirect`, `bcc` and `filtered` are what access(5) tables want done with it once it
    passes.  It expires `lifetime` seconds after its birth; no more are taken than `room` has, which
    is not stored, as is `lifetime`.
    """

    findings: tuple[Found, ...]
    passing: tuple[Found, ...] = ()
    listener: str = ""
    macros: Mapping[str, bytes] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()
    hold: str = ""
    redirect: bytes = b""
    bcc: tuple[bytes, ...] = ()
    filtered: str = ""
    origin: str = ""
    lifetime: float = 30 * DAY
    room: Room | None = None

    @property
    def awaiting(self) -> bool:
        """Whether nothing was found, but milters that could not look shall be asked again."""
        return bool(self.findings) and all(each.awaited for each in self.findings)


def to_facts(caught: Caught) -> dict[str, Any]:
    """For JSON."""
    return {
        "findings": [[each.milter, each.what, each.text] for each in caught.findings],
        "passing": [[each.milter, each.what, each.text] for each in caught.passing],
        "listener": caught.listener,
        "macros": {name: value.decode("latin-1") for name, value in caught.macros.items()},
        "hidden": list(caught.hidden),
        "hold": caught.hold,
        "redirect": caught.redirect.decode("latin-1"),
        "bcc": [each.decode("latin-1") for each in caught.bcc],
        "filter": caught.filtered,
        "origin": caught.origin,
    }


def from_facts(facts: Mapping[str, Any]) -> Caught:
    """Raises KeyError, TypeError, ValueError, AttributeError for what is not of that form."""
    return Caught(
        findings=tuple(Found(*map(str, each)) for each in facts["findings"]),
        passing=tuple(Found(*map(str, each)) for each in facts["passing"]),
        listener=str(facts["listener"]),
        macros={name: value.encode("latin-1") for name, value in facts["macros"].items()},
        hidden=tuple(int(each) for each in facts["hidden"]),
        hold=str(facts["hold"]),
        redirect=facts["redirect"].encode("latin-1"),
        bcc=tuple(each.encode("latin-1") for each in facts["bcc"]),
        filtered=str(facts["filter"]),
        origin=str(facts["origin"]),
    )
