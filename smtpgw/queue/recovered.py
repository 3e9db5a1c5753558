"""What was put right when a shard was opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found and put right at start; `held` are mails that may have killed workers."""

    leased: int = 0
    orphans: int = 0
    corrupt: tuple[tuple[str, str], ...] = ()
    strange: tuple[str, ...] = ()
    held: tuple[tuple[str, str], ...] = ()
    unswept: str = ""
    """Why body files could not be listed, so that orphans stay."""
