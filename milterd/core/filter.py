"""What a filter is: a name, its needs, a gathering of facts, and a pure decision."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from milterd.core.decision import Decision
from milterd.core.mail import Mail


class Need(enum.Flag):
    """What a filter wants to be shown, and what it may change.

    The host derives the negotiation from it: a filter gets, and may do, only
    what it asked for.
    """

    HELO = enum.auto()
    RECIPIENTS = enum.auto()
    HEADERS = enum.auto()
    BODY = enum.auto()
    ADD_HEADERS = enum.auto()
    CHANGE_HEADERS = enum.auto()
    CHANGE_BODY = enum.auto()
    CHANGE_SENDER = enum.auto()
    CHANGE_RECIPIENTS = enum.auto()
    QUARANTINE = enum.auto()


Facts = TypeVar("Facts")


class Filter(Protocol[Facts]):
    """A filter.  `gather` may block and talk to ports; `decide` is pure.

    `gather` must not raise for what a port can do wrong (down, slow, odd
    answer): those are facts.  The same mail and facts give the same decision.
    """

    @property
    def name(self) -> str:
        """The name in configuration, log and metrics."""
        ...

    @property
    def needs(self) -> Need:
        """What it is shown and may change."""
        ...

    def gather(self, mail: Mail) -> Facts:
        """Ask the ports the filter was built with."""
        ...

    def decide(self, mail: Mail, facts: Facts) -> Decision:
        """Decide, from the mail and the facts alone."""
        ...


@runtime_checkable
class Prompt(Protocol):
    """A filter that seldom has to wait: a host asks it here first, in the thread that serves all
    connections, and calls `gather` in another only where it must."""

    def at_once(self, mail: Mail) -> Any:
        """What `gather` would return, where that takes no waiting; None otherwise."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A filter that waits for facts which are the same for nearly every mail: while it waits, a
    host has it decide by those, and throws that away where they turn out to be others."""

    @property
    def usual(self) -> Any:
        """The facts of most mails."""
        ...

    def gather_while(self, mail: Mail, meanwhile: Callable[[], object]) -> Any:
        """See :meth:`Filter.gather`.  `meanwhile` is work for the time of waiting, done once, more
        often, or never."""
        ...


@runtime_checkable
class Beginning(Protocol):
    """A filter that can wait for its facts without a thread: a host asks it here where it has an
    event loop, and calls `gather` where nothing was begun."""

    def begin(self, mail: Mail, then: Callable[[Any], None]) -> Callable[[], None] | None:
        """Ask, and return at once.  `then` is called once, by the running event loop: with what
        `gather` would return, or with a callable that returns it in a thread.  What is returned
        calls it off; None where nothing was begun."""
        ...


@dataclass(frozen=True, slots=True)
class NoFacts:
    """What a filter gathers that asks nobody."""
