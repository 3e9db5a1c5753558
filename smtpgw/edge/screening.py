"""The seam between a connection and what looks at its client before, and while, it speaks.

The edge knows nothing of tests: it hands over the conversation before the banner, and each
command line before it is understood.  Who is turned away hears so within, by Goodbye.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from smtpgw.edge.road import Connection

if TYPE_CHECKING:
    from smtpgw.edge.conversation import Conversation


class Screened(Protocol):
    """One client under test."""

    @property
    def hides_pipelining(self) -> bool:
        """Whether PIPELINING must not be announced: who is not told of it does not use it."""
        ...

    async def greet(self, conversation: Conversation) -> None:
        """Before the banner.  Returns when the client may go on, raises Goodbye when it is gone."""
        ...

    async def line(self, conversation: Conversation, line: bytes) -> None:
        """A command line has come, and is in nobody's hands yet."""
        ...

    def over(self) -> None:
        """The connection has ended."""
        ...


class Screen(Protocol):
    """Who makes them, for one listener."""

    def meet(self, connection: Connection) -> Screened:
        """A client has connected."""
        ...
