"""What can be found in an attachment, as frozen values, and how much is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trouble = Literal["encrypted", "unscannable", "too_large", "too_slow", "unavailable"]
Mark = Literal["encrypted", "macros"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is looked at for one attachment: `octets` unpacked in all, `members` in all archives,
    archives within archives to `depth`; and `memory`, octets of address space of a process."""

    octets: int = 104_857_600
    members: int = 2000
    depth: int = 5
    memory: int = 1_073_741_824


@dataclass(frozen=True, slots=True)
class Thing:
    """A file in an attachment: its names from the outside in, without the attachment's own; what
    it is by its content, as extensions that such a file has; and what is remarkable of it."""

    path: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why something was not looked into, or not wholly."""

    trouble: Trouble
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """What is in an attachment: itself first, then what it holds; and what stood in the way."""

    things: tuple[Thing, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
