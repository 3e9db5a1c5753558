"""One message on its way through one milter: header, body, end of message, and what comes back.

A milter that answers nothing before the end of message gets it in one go; any other one event by
event, since each may be answered with a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from milterd.core.actions import Edit
from milterd.wire.convert import EditCollector
from milterd.wire.errors import PeerError
from milterd.wire.limits import Limits
from milterd.wire.messages import (
    BodyChunk,
    Continue,
    EditReply,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Progress,
    ReplaceBodyChunk,
    Reply,
    Skip,
)
from milterd.wire.states import EDIT_ACTIONS, CommandType
from smtpgw.chain.client import MilterClient
from smtpgw.chain.content import Content
from smtpgw.chain.events import Hearing
from smtpgw.chain.faults import FaultKind, MilterFault


@dataclass(slots=True)  # there is one for each mail, and to freeze it costs as much as a call each
class Outcome:
    """The milter's last word on a message, the stage it came at, its edits, and which of
    them could not be understood; `words` are its reasons, where it can tell them."""

    reply: Reply | None
    stage: str
    edits: tuple[Edit, ...] = ()
    refused: tuple[str, ...] = ()
    words: str = ""


WENT_ON = Outcome(Continue(), "eom")
"""The milter has nothing against the message, and nothing to change."""


class Words:
    """What a milter says at the end of its messages, of one after the other."""

    __slots__ = ("_client", "_collector", "_hearing", "_limits", "_refused")

    def __init__(self, client: MilterClient, hearing: Hearing, limits: Limits) -> None:
        self._client, self._hearing, self._limits = client, hearing, limits
        self._collector: EditCollector | None = None
        self._refused: list[str] = []

    def outcome(self) -> Outcome | None:
        """What came back after the end of message, the edits and the verdict; None until that is
        in.  Raises MilterFault."""
        client = self._client
        for reply in client.come():
            kind = type(reply)
            if kind in EDIT_ACTIONS:
                self._take(reply)  # type: ignore[arg-type]  # it is one of these kinds
            elif kind is Continue and self._collector is None:
                return WENT_ON
            elif kind is not Progress:
                return self._ended(reply)  # type: ignore[arg-type]  # negotiation is long over
        client.check()  # a milter that failed behind its edits wakes nobody again
        return None

    def forget(self) -> None:
        """The message does not matter any more."""
        self._collector, self._refused = None, []

    def _ended(self, reply: Reply) -> Outcome:
        collector = self._collector
        if collector is None:
            return Outcome(reply, "eom")
        ended = Outcome(reply, "eom", collector.edits(), tuple(self._refused))
        self.forget()
        return ended

    def _take(self, reply: EditReply) -> None:
        """Collect an edit, or say why not.  A body cannot be half refused."""
        collector = self._collector
        if collector is None:
            collector = EditCollector(self._hearing.leading_space, self._limits)
            self._collector = collector
        kind = type(reply)
        if kind not in self._client.connection.allowed:
            self._refused.append(f"{kind.__name__}: not negotiated")
            return
        try:
            collector.take(reply)
        except PeerError as error:
            if kind is ReplaceBodyChunk:
                raise MilterFault(FaultKind.PROTOCOL, error.reason) from error
            self._refused.append(f"{kind.__name__}: {error.reason}")


class Showing:
    """One message on its way through one milter."""

    __slots__ = ("_client", "_content", "_hearing", "_patience")

    def __init__(
        self, client: MilterClient, content: Content, hearing: Hearing, patience: float
    ) -> None:
        self._client, self._content, self._hearing = client, content, hearing
        self._patience = patience

    async def run(self, words: Words) -> Outcome:
        """Show it all, or as much as the milter wants; its `words` about it.  Raises
        MilterFault."""
        for stage, step in (
            ("header", self._show_header),
            ("eoh", self._show_end_of_headers),
            ("body", self._show_body),
        ):
            reply = await step()
            if reply is not None:
                return Outcome(reply, stage)
        client, patience = self._client, self._patience
        client.add(EndOfMessage, self._content.end(self._hearing))
        await client.flush(patience)
        while (outcome := words.outcome()) is None:
            await client.more(patience)
        return outcome

    async def _show_header(self) -> Reply | None:
        """The milter's verdict, if it gives one here; so with the other steps."""
        content, hearing = self._content, self._hearing
        if Header in hearing.unsent:
            return None
        if Header in self._client.connection.unanswered:
            return await self._step(Header, content.headers(hearing, hearing.leading_space))
        for each in content.fields(hearing, hearing.leading_space):
            reply = await self._step(Header, each)
            if reply is not None:
                return reply
        return None

    async def _show_end_of_headers(self) -> Reply | None:
        return await self._step(EndOfHeaders, self._content.end_of_headers(self._hearing))

    async def _show_body(self) -> Reply | None:
        if BodyChunk in self._hearing.unsent or not self._content.mail.body.size:
            return None
        for head, piece in self._content.chunks(self._hearing):
            self._client.add(BodyChunk, head, piece)
            reply = await self._heard()
            if reply is not None or self._client.connection.skipping(BodyChunk):
                return reply
        return None

    async def _step(self, kind: CommandType, octets: bytes) -> Reply | None:
        self._client.add(kind, octets)
        return await self._heard()

    async def _heard(self) -> Reply | None:
        reply = await self._client.heard(self._patience)
        return None if isinstance(reply, Continue | Skip) else reply
