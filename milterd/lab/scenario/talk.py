"""One connection as a scenario uses it: by the rules, until it asks for octets of its own.

From the first `raw` or `packet` on the rules are the scenario's: every event is
sent as it stands if the milter wants it, every packet that comes is read by itself,
and nothing is held against what an MTA would allow.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from milterd.core.actions import Edit
from milterd.lab.link import STAGES, Fault, Link, MilterError, Patience, Side, connect
from milterd.lab.scenario import steps as s
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    OLDEST_VERSION,
    PROTOCOL_OF_VERSION,
    Actions,
    Command,
    Protocol,
)
from milterd.wire.convert import EditCollector, value_to_wire
from milterd.wire.errors import PeerError
from milterd.wire.states import (
    COMMAND_OF,
    EVENTS,
    CommandType,
    unanswered_commands,
    unsent_commands,
)

_NOTHING_AGREED = Negotiated(OLDEST_VERSION, Actions.NONE, Protocol.NONE)
Reply = m.Reply | m.Negotiate


@dataclass(frozen=True, slots=True)
class Answer:
    """What came for one event: `final` is None where no answer was due."""

    final: Reply | None = None
    progress: int = 0
    edits: tuple[Edit, ...] = ()


class Manner:
    """How to write: in fragments, with a halt in the middle."""

    def __init__(self) -> None:
        self.fragment = 0
        self.stall = 0.0

    async def write(self, link: Link, octets: bytes) -> None:
        """Write as it is set; a stall counts once."""
        halt, self.stall = self.stall, 0.0
        half = len(octets) // 2 if halt else 0
        if half:
            await self._pieces(link, octets[:half])
            await asyncio.sleep(halt)
        await self._pieces(link, octets[half:])

    async def _pieces(self, link: Link, octets: bytes) -> None:
        size = self.fragment or len(octets) or 1
        for at in range(0, len(octets), size):
            await link.write(octets[at : at + size])
            await asyncio.sleep(0)


class Conversation:
    """A connection to a milter; `open` makes one."""

    def __init__(self, manner: Manner) -> None:
        self._stack = AsyncExitStack()
        self._manner = manner
        self._heard = 0
        self._free = False
        self._skip: CommandType | None = None
        self._due = False
        self.agreed: Negotiated | None = None
        self.link: Link

    @classmethod
    async def open(
        cls, address: str, patience: Patience, offer: s.Offer, manner: Manner
    ) -> Conversation:
        """A connection, not yet negotiated.  Raises MilterError, ValueError as `connect` does."""
        new = cls(manner)
        new.link = await new._stack.enter_async_context(
            connect(address, patience=patience, tap=new._tap, offer=_as_message(offer))
        )
        return new

    @property
    def due(self) -> bool:
        """Whether an answer is due."""
        return self._due if self._free else bool(self.link.mta.awaiting)

    @property
    def violations(self) -> tuple[str, ...]:
        """What the milter did that an MTA lets pass."""
        return self.link.mta.violations

    async def negotiate(self) -> Negotiated:
        """Make the offer and take the answer."""
        self.agreed = await self.link.negotiate()
        return self.agreed

    async def send(
        self, event: m.CommandMessage, macros: Mapping[Command, tuple[tuple[bytes, bytes], ...]]
    ) -> None:
        """Send an event, its macros before it, if the milter wants it.

        Raises LocalError for one that may not come now or that no packet can carry.
        """
        if isinstance(event, m.Header):
            event = m.Header(event.name, value_to_wire(event.value, self._leading_space))
        self.link.stage = STAGES[type(event)]
        pairs = macros.get(COMMAND_OF[type(event)])
        octets = self._freely(event) if self._free else self.link.mta.send(event)
        if octets and pairs is not None:
            octets = m.Macros(COMMAND_OF[type(event)], pairs).encode() + octets
        if octets:
            await self._manner.write(self.link, octets)

    def _freely(self, event: m.CommandMessage) -> bytes:
        kind, agreed = type(event), self.agreed or _NOTHING_AGREED
        if kind is self._skip or kind in unsent_commands(agreed.protocol, agreed.version):
            return b""
        self._skip = None
        self._due = kind in EVENTS and kind not in unanswered_commands(agreed.protocol)
        return event.encode()

    async def write(self, octets: bytes) -> None:
        """Send octets as they are; the rules are the scenario's from here on."""
        self._free, self._due, self.link.stage = True, False, "raw octets"
        await self._manner.write(self.link, octets)

    async def answer(self) -> Answer:
        """The next answer, read to its end."""
        collector = EditCollector(self._leading_space)
        progress, final = 0, None
        for reply in await (self._frames() if self._free else self.link.answers()):
            if isinstance(reply, m.EditReply):
                try:
                    collector.take(reply)
                except PeerError as error:
                    raise self.link.broken(error) from error
            elif isinstance(reply, m.Progress):
                progress += 1
            else:
                final = reply
        self._due = False
        return Answer(final, progress, collector.edits())

    async def _frames(self) -> Sequence[Reply]:
        """Replies up to one that is final."""
        found: list[Reply] = []
        while not found or isinstance(found[-1], m.EditReply | m.Progress):
            code, payload = await self.packet()
            try:
                found.append(m.decode_reply(code[0], payload))
            except PeerError as error:
                raise self.link.broken(error) from error
        if isinstance(found[-1], m.Negotiate):
            self._take_negotiation(found[-1])
        return found

    def _take_negotiation(self, reply: m.Negotiate) -> None:
        self.agreed = Negotiated(reply.version, reply.actions, reply.protocol, reply.macros)

    async def packet(self) -> tuple[bytes, bytes]:
        """The next packet, whatever its sense."""
        found = await self.link.frame()
        if found is None:
            link = self.link
            text = f"connection lost at {link.stage}, octet {link.octet} of the milter's: closed"
            raise MilterError(Fault.GONE, text, link.stage, link.octet)
        return bytes((found[0],)), found[1]

    async def quiet(self, seconds: float) -> bool:
        """Whether nothing at all comes for so long; what comes is lost.

        Raises MilterError if the connection is closed instead.
        """
        before, usual = self._heard, self.link.patience
        self.link.patience = dataclasses.replace(usual, answer=seconds)
        try:
            if not self._free and self.due:
                await self.link.answers()
            elif self._free:
                await self.packet()
            elif await self.link.closed():
                return False
        except MilterError as error:
            if error.fault is not Fault.SILENT:
                raise
        finally:
            self.link.patience = usual
        return self._heard == before

    async def closed(self) -> bool:
        """Whether the milter closes, and sends nothing before."""
        try:
            return await self.link.closed()
        except MilterError as error:
            if error.fault is not Fault.GONE:
                raise
            return True

    async def close(self, *, at_once: bool = False) -> None:
        """End the connection; `at_once` leaves what is unsent unsent."""
        if at_once:
            self.link.drop()
        await self._stack.aclose()

    @property
    def _leading_space(self) -> bool:
        return Protocol.HDR_LEADSPC in (self.agreed or _NOTHING_AGREED).protocol

    def _tap(self, side: Side, octets: bytes) -> None:
        if side == "milter":
            self._heard += len(octets)


def _as_message(offer: s.Offer) -> m.Negotiate:
    """The offer on the wire: what is not given is all that the version has."""
    version = min(max(offer.version, 2), 6)
    actions = ACTIONS_OF_VERSION[version] if offer.actions is None else Actions(offer.actions)
    protocol = PROTOCOL_OF_VERSION[version] if offer.protocol is None else Protocol(offer.protocol)
    return m.Negotiate(offer.version, actions, protocol)
