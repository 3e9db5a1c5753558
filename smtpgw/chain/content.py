"""Showing a message to one milter: header, body, end of message, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from milterd.core.actions import Edit
from milterd.core.mail import HeaderField, Mail
from milterd.wire.constants import CHUNK, Protocol
from milterd.wire.constants import Command as Code
from milterd.wire.convert import EditCollector, header_to_wire
from milterd.wire.errors import PeerError
from milterd.wire.limits import Limits
from milterd.wire.messages import (
    BodyChunk,
    CommandMessage,
    Continue,
    EditReply,
    EndOfHeaders,
    EndOfMessage,
    FinalReply,
    Header,
    Progress,
    ReplaceBodyChunk,
    Reply,
    Skip,
)
from milterd.wire.states import EDIT_ACTIONS
from smtpgw.chain.client import MilterClient
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.macros import Values, select


@dataclass(frozen=True, slots=True)
class Outcome:
    """The milter's last word on a message, the stage it came at, its edits, and which of
    them could not be understood."""

    reply: Reply | None
    stage: str
    edits: tuple[Edit, ...] = ()
    refused: tuple[str, ...] = ()


class Showing:
    """One message on its way through one milter."""

    def __init__(
        self,
        client: MilterClient,
        mail: Mail,
        facts: Mapping[str, bytes],
        *,
        patience: float,
        limits: Limits,
    ) -> None:
        self._client = client
        self._mail = mail
        self._facts = facts
        self._patience = patience
        self._wire_limits = limits
        self._wanted = client.connection.wanted
        self._chosen: dict[Code, Values] = {}

    async def run(self) -> Outcome:
        """Show it all, or as much as the milter wants.  Raises MilterFault."""
        for stage, code, command in self._events():
            reply = await self._client.event(command, self._macros(code), patience=self._patience)
            if reply is not None and not isinstance(reply, Continue | Skip):
                return Outcome(reply, stage)
        return await self._end()

    def _events(self) -> Iterator[tuple[str, Code, CommandMessage]]:
        connection = self._client.connection
        agreed = connection.agreed_protocol
        if Protocol.NOHDRS not in agreed:
            for each in self._mail.visible():
                yield "header", Code.HEADER, to_wire(each, connection.leading_space)
        yield "eoh", Code.END_OF_HEADERS, EndOfHeaders()
        if Protocol.NOBODY in agreed:
            return
        for piece in self._mail.body.pieces():
            yield "body", Code.BODY, BodyChunk(piece)
            if connection.skipping(BodyChunk):
                return

    def _macros(self, code: Code) -> Values:
        """The macros for an event; the same for every header field and piece of body."""
        known = self._chosen.get(code)
        if known is None:
            known = self._chosen[code] = select(code, self._wanted, self._facts)
        return known

    async def _end(self) -> Outcome:
        """End of message, and the edits until the verdict."""
        client = self._client
        collector = EditCollector(client.connection.leading_space, self._wire_limits)
        refused: list[str] = []
        reply = await client.event(
            EndOfMessage(), self._macros(Code.END_OF_MESSAGE), patience=self._patience
        )
        while reply is not None and not isinstance(reply, FinalReply | Progress):
            fault = self._take(collector, reply)
            if fault is not None:
                refused.append(f"{type(reply).__name__}: {fault}")
            reply = await client.answer(self._patience)
        return Outcome(reply, "eom", collector.edits(), tuple(refused))

    def _take(self, collector: EditCollector, reply: EditReply) -> str | None:
        """Collect an edit; why not, if it is refused.  A body cannot be half refused."""
        if EDIT_ACTIONS[type(reply)] not in self._client.connection.agreed_actions:
            return "not negotiated"
        try:
            collector.take(reply)
        except PeerError as error:
            if isinstance(reply, ReplaceBodyChunk):
                raise MilterFault(FaultKind.PROTOCOL, error.reason) from error
            return error.reason
        return None


def to_wire(field: HeaderField, leading_space: bool) -> Header:
    """The field as a milter sees it.

    NUL, which a C string cannot carry, is shown as a space, and a field that
    libmilter would drop the connection over is cut at what one packet holds.
    """
    shown = header_to_wire(field, leading_space)
    room = CHUNK - len(shown.name) - len(b"\0\0")
    if b"\0" not in shown.value and len(shown.value) <= room:
        return shown
    return replace(shown, value=shown.value[: max(room, 0)].replace(b"\0", b" "))
