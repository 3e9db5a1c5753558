"""What goes into a delivery and what comes out of it: values, which nobody changes.

Those that are made for each mail are not frozen, which would double the time to make them.

Every recipient gets exactly one outcome.  `text` is the peer's own words where it
spoke, ours where it did not; either way one line of printable characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from milterd.core.mail import Body
from milterd.core.values import value

TEXT_LIMIT = 1000


def clean(text: bytes | str, limit: int = TEXT_LIMIT) -> str:
    """A peer's words as one line: UTF-8 where it is, no control characters, at most `limit`."""
    words = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    words = words[: 4 * limit]
    if not words.isprintable():
        words = "".join(each if each.isprintable() else " " for each in words)
    return " ".join(words.split())[:limit]


@value
class Target:
    """One recipient to deliver to, not to be changed; `number` is its place in the queued mail,
    `original` whom the sender named, if that was another."""

    number: int
    address: bytes
    args: tuple[bytes, ...] = ()
    original: bytes = b""


@value
class Job:
    """One mail for some recipients of one destination, not to be changed.

    `head` ends with the blank line; `attempt` counts from 1; `arrived` is wall time.
    """

    queue_id: str
    sender: bytes
    sender_args: tuple[bytes, ...]
    targets: tuple[Target, ...]
    head: bytes
    body: Body
    attempt: int = 1
    arrived: float = 0.0

    @property
    def size(self) -> int:
        """Octets of the message."""
        return len(self.head) + self.body.size


@value
class Delivered:
    """Another has it now; not to be changed.  `relayed` says that it does not promise DSNs
    (RFC 3461 5.2.2); `passed_on` that NOTIFY went along, so that reporting is the peer's
    business; `tls` how the connection was encrypted, '' if not."""

    number: int
    text: str
    remote: str = ""
    enhanced: str = "2.0.0"
    relayed: bool = False
    passed_on: bool = False
    tls: str = ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now.  `spoken` says whether `text` is the peer's reply; `unreachable`, that the
    whole destination did not answer, whatever the mail; `next_host`, that the connection was
    lost before the peer got any of the message, so that another host may have it."""

    number: int
    text: str
    remote: str = ""
    enhanced: str = "4.0.0"
    spoken: bool = False
    unreachable: bool = False
    tls: str = ""
    next_host: bool = False


@dataclass(frozen=True, slots=True)
class Held(Deferred):
    """Not before somebody looks: no time runs out meanwhile, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Never."""

    number: int
    text: str
    remote: str = ""
    enhanced: str = "5.0.0"
    spoken: bool = False
    tls: str = ""


Outcome = Delivered | Deferred | Failed


@dataclass(frozen=True, slots=True)
class Destination:
    """Where mail goes: a transport and its nexthop, e.g. `lmtp` and `unix:/run/lmtp`.

    `service` is the name of a transport that has limits of its own, `user` the recipient where
    these count for each recipient.
    """

    transport: str
    nexthop: str = field(default="")
    service: str = field(default="")
    user: str = field(default="")
    _text: str = field(default="", init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What the transport is called."""
        return self.service or self.transport

    def __str__(self) -> str:
        if not self._text:
            user = f" {self.user}" if self.user else ""
            object.__setattr__(self, "_text", f"{self.name}:{self.nexthop}{user}")
        return self._text


class Deliverer(Protocol):
    """A transport.  It raises nothing for what a peer or a disk can do wrong."""

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        """One outcome for each of the job's targets."""
        ...

    async def close(self) -> None:
        """Let go of kept connections."""
        ...
