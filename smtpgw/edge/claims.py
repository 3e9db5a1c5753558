"""What servers before us say in one session, by XCLIENT and XFORWARD, and whether they may."""

from __future__ import annotations

from collections.abc import Mapping

from smtpgw.edge import forwarded
from smtpgw.edge.dialogue_options import DialogueOptions
from smtpgw.edge.forwarded import AttributeFault, Claim, Values
from smtpgw.edge.road import Answer, Connection

MAIL_IN_PROGRESS = Answer(503, "5.5.1", "Error: MAIL transaction in progress")


class Claims:
    """The client as it stands, and where the next mail came from."""

    def __init__(self, options: DialogueOptions, connection: Connection) -> None:
        self._options = options
        self._peer = connection.client.address
        self.claim = Claim(connection)
        self.facts: dict[str, bytes] = {}

    @property
    def address(self) -> bytes:
        """The client's, or what XCLIENT says is."""
        return self.claim.connection.client.address

    @property
    def peer(self) -> bytes:
        """The address of who is really there."""
        return self._peer

    async def xclient(self, argument: bytes, *, in_transaction: bool) -> Claim | Answer:
        """The client anew, or why it may not be.  Raises Unavailable."""
        values = await self._values(argument, "XCLIENT", in_transaction)
        if isinstance(values, Answer):
            return values
        self.claim = self.claim.changed(values)
        return self.claim

    async def xforward(
        self, argument: bytes, *, in_transaction: bool
    ) -> Mapping[str, bytes] | Answer:
        """All that is known of the next mail now, or why not.  Raises Unavailable."""
        values = await self._values(argument, "XFORWARD", in_transaction)
        if isinstance(values, Answer):
            return values
        self.facts |= values
        return dict(self.facts)

    async def _values(self, argument: bytes, command: str, in_transaction: bool) -> Values | Answer:
        """What the command says; first of its faults the one that smtpd(8) names first."""
        if in_transaction:
            return MAIL_IN_PROGRESS
        if not argument:
            return forwarded.syntax(command)
        said = self._options
        if command == "XCLIENT":
            allowed = await said.xclient.match(self.address)
        else:  # whose word it is does not change with whom it speaks for
            allowed = await said.xforward.match(self._peer)
        if not allowed:
            return forwarded.NOT_ALLOWED
        try:
            return forwarded.parse(argument, command)
        except AttributeFault as fault:
            return fault.answer
