"""What a postmaster says about one milter, and the bounds put on what it may ask for."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from milterd.base.row import INSIDE
from milterd.base.sockets import SocketAddress, parse
from milterd.core.actions import Edit
from milterd.core.mail import Direction, Mail
from milterd.wire.messages import FinalReply

BOTH = frozenset(Direction)

Word = tuple[FinalReply | None, tuple[Edit, ...], str]
"""The last reply of a filter in this process, its edits as an MTA hears them, and its reasons; of
one whose edits cannot be understood, what is wrong with them."""


class Filter(Protocol):
    """A filter in this process."""

    edits: bool
    """Whether it may change a mail."""

    def ask(
        self,
        mail: Mail,
        macros: Mapping[str, bytes],
        known: dict[object, Any],
        then: Callable[[Word], None],
    ) -> tuple[Word | None, Callable[[], None] | None]:
        """What it says to a mail of which it is to see everything; or what calls it off, and
        `then` is called with its word once, by the running event loop.  `macros` are by name
        without braces, `known` is kept with the message, for such filters alone.  Raises nothing
        for what the filter does."""
        ...


class DefaultAction(enum.StrEnum):
    """What happens to mail when a milter fails (postconf(5), milter_default_action)."""

    ACCEPT = "accept"
    REJECT = "reject"
    TEMPFAIL = "tempfail"
    QUARANTINE = "quarantine"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class MilterOptions:
    """One milter.  Timeouts are seconds.

    `address` is `unix:PATH` or `inet:PORT@HOST`, or `filter:NAME` for one that is `inside`, in
    this process.  `connect_timeout` covers the
    connection and each retry while the milter's backlog is full;
    `command_timeout` the wait for one reply before the content, negotiation
    included; `content_timeout` the wait for one reply, or for room to write,
    from the first header on.  PROGRESS starts those anew, `total_timeout` it
    does not: no event, and no whole message, takes longer.

    `listeners` empty means every listener.  `macro_daemon_name`, where given,
    is this milter's {daemon_name}.  Raises ValueError for a name, address,
    time or action that cannot be meant.
    """

    name: str
    address: str
    connect_timeout: float = 30.0
    command_timeout: float = 30.0
    content_timeout: float = 300.0
    total_timeout: float = 600.0
    default_action: str = DefaultAction.TEMPFAIL
    listeners: frozenset[str] = frozenset()
    directions: frozenset[Direction] = BOTH
    macro_daemon_name: str = ""
    inside: Filter | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a milter needs a name")
        if not self.filter and not self.endpoint.path and not self.endpoint.port:
            raise ValueError(f"milter {self.name}: expected a port from 1 to 65535")
        DefaultAction(self.default_action)
        times = (
            self.connect_timeout,
            self.command_timeout,
            self.content_timeout,
            self.total_timeout,
        )
        if min(times) <= 0:
            raise ValueError(f"milter {self.name}: a timeout must be more than 0 seconds")

    @property
    def filter(self) -> str:
        """The name of the filter of ours that it is, in this process; empty for any other."""
        return self.address.removeprefix(INSIDE) if self.address.startswith(INSIDE) else ""

    @property
    def endpoint(self) -> SocketAddress:
        """Where to connect."""
        return parse(self.address)

    @property
    def action(self) -> DefaultAction:
        """The failure action as a value."""
        return DefaultAction(self.default_action)

    def serves(self, listener: str, direction: Direction) -> bool:
        """Whether mail of this listener and direction is shown to the milter."""
        return direction in self.directions and (not self.listeners or listener in self.listeners)


AddressCheck = Callable[[bytes], str | None]
"""None where an address may be used, else why it may not, in a few words."""


def plain_address(address: bytes) -> str | None:
    """The least a recipient must be: printable, with a local part and a domain.

    Callers hand in something that knows where mail may be relayed to.
    """
    if len(address) > 254:
        return "longer than 254 octets"
    if any(each <= 32 or each == 127 or each in b"<>" for each in address):
        return "holds white space, control characters or angle brackets"
    local, _, domain = address.rpartition(b"@")
    return None if local and domain else "not of the form local@domain"


def plain_sender(address: bytes) -> str | None:
    """As :func:`plain_address`, and the null sender."""
    return plain_address(address) if address else None


@dataclass(frozen=True, slots=True)
class EditLimits:
    """What one milter may do to one mail.  Sizes are octets.

    `count` and `octets` bound all edits but the body; beyond them, or beyond
    `body_size`, the milter counts as failed.  A field longer than `field_size`,
    or an address a check refuses, loses only that edit.
    """

    count: int = 10_000
    octets: int = 4_194_304
    body_size: int = 26_214_400
    field_size: int = 102_400
    recipient: AddressCheck = plain_address
    sender: AddressCheck = plain_sender
