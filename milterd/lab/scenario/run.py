"""Playing one scenario, and what came of it.

A scenario ends at the first block with a failure or a fault; a block is something
done to the milter and the expectations after it.  Every wait has an end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from milterd.core.mail import parse_message
from milterd.lab import status
from milterd.lab.link import Fault, MilterError, Patience
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.judge import Block, Judge
from milterd.lab.scenario.matching import edit_told, told, wish_told
from milterd.lab.scenario.program import StartError, running
from milterd.lab.scenario.talk import Answer, Conversation, Manner
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, Command
from milterd.wire.errors import LocalError

_BARE_LF = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, and at which line."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One thing done, what was answered, and the fault that ended it if one did."""

    line: int
    did: str
    answers: tuple[Answer, ...] = ()
    fault: str = ""

    @property
    def came(self) -> Iterator[str]:
        """What came back, in the scenario's words."""
        for each in self.answers:
            if each.final is not None:
                yield told(each)
            yield from (f"edit {edit_told(edit)}" for edit in each.edits)
        if self.fault:
            yield self.fault


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a scenario: `status` is one of `milterd.lab.status`."""

    name: str
    status: int
    failures: tuple[Failure, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return self.status == status.GOOD


async def run(
    scenario: s.Scenario,
    *,
    socket: str | None = None,
    default: str = "",
    patience: Patience | None = None,
) -> Outcome:
    """Play a scenario against the milter at `socket`, or else at the scenario's own address,
    or else at the `default` one.

    With a `socket` nothing that the scenario would start is started.  Never raises
    for what the milter or the scenario does wrong: that is in the outcome.
    """
    player = _Player(scenario, socket, default, patience or Patience(total=60.0))
    began = asyncio.get_running_loop().time()
    await player.play()
    seconds = asyncio.get_running_loop().time() - began
    return Outcome(
        scenario.name, player.status, tuple(player.failures), tuple(player.exchanges), seconds
    )


class _Player:
    def __init__(
        self, scenario: s.Scenario, socket: str | None, default: str, patience: Patience
    ) -> None:
        self._scenario, self._patience = scenario, patience
        self._directory = Path(scenario.name).parent
        actions = [each.action for each in scenario.steps]
        given = next((each.address for each in actions if isinstance(each, s.Socket)), b"")
        self._address = socket or given.decode("utf-8", "replace") or default
        starts = [each for each in actions if isinstance(each, s.Start)]
        self._start = starts[0] if starts and not socket else None
        self._talk: Conversation | None = None
        self._manner = Manner()
        self._macros: dict[Command, tuple[tuple[bytes, bytes], ...]] = {}
        self._block: Block | None = None
        self._line = 1
        self.status = status.GOOD
        self.failures: list[Failure] = []
        self.exchanges: list[Exchange] = []

    async def play(self) -> None:
        """All of it; what goes wrong is kept."""
        try:
            async with asyncio.timeout(self._patience.total):
                await self._all()
        except MilterError as error:
            self._fail(f"{self._did()}{error}", error.fault.value)
        except StartError as error:
            self._fail(str(error), status.GONE)
        except (LocalError, ValueError) as error:
            self._fail(f"{self._did()}{error}", status.USAGE)
        except TimeoutError:
            self._fail(
                f"{self._did()}not over after {self._patience.total:g} s", Fault.SILENT.value
            )
        except OSError as error:
            self._fail(f"cannot read {error.filename}: {error.strerror}", status.USAGE)
        if self._block is not None:
            self._record(self._block)

    def _did(self) -> str:
        return "" if self._block is None else f"{self._block.did}: "

    async def _all(self) -> None:
        if not self._address:
            raise LocalError("no address: give a socket line, or --socket")
        async with AsyncExitStack() as stack:
            if self._start is not None:
                command = running(self._start.words, self._address, self._directory)
                await stack.enter_async_context(command)
            stack.push_async_callback(self._leave)
            await self._steps()

    async def _steps(self) -> None:
        for step in self._scenario.steps:
            if isinstance(step.action, s.Talk):
                if not await self._finish():
                    return
                self._line = step.line
                await self._do(step)
            elif isinstance(step.action, s.Expect):
                self._line = step.line
                await self._expect(step.action.wish)
            elif self.failures:
                break
            else:
                await self._set(step.action)
        await self._finish()

    async def _set(self, action: s.Socket | s.Start | s.Manner) -> None:
        match action:
            case s.SetMacros(command, None):
                self._macros.pop(command, None)
            case s.SetMacros(command, values) if values is not None:
                self._macros[command] = values
            case s.Sleep():
                await asyncio.sleep(action.seconds)
            case s.Within():
                self._patience = dataclasses.replace(self._patience, answer=action.seconds)
                if self._talk is not None:
                    self._talk.link.patience = self._patience
            case s.Fragment():
                self._manner.fragment = action.octets
            case s.Stall():
                self._manner.stall = action.seconds

    async def _do(self, step: s.Step) -> None:
        action = step.action
        if isinstance(action, s.Offer):
            await self._leave()
        talk = None if isinstance(action, s.Drop) else await self._open(action)
        block = self._block = Block(step, talk)
        if talk is None:
            await self._leave(at_once=True)
            return
        try:
            await self._act(action, block, talk)
        except MilterError as error:
            block.fault = error

    async def _act(self, action: s.Action, block: Block, talk: Conversation) -> None:
        match action:
            case s.Offer():
                await talk.negotiate()
            case s.Raw():
                await talk.write(action.octets)
            case s.Packet():
                size = len(action.payload) + 1
                await talk.write(size.to_bytes(4, "big") + action.code + action.payload)
            case s.HalfClose():
                talk.link.end_of_file()
            case s.Say():
                await talk.send(action.event, self._macros)
            case s.Body():
                pieces = list(_pieces(self._octets(action.content)))
                await self._series(pieces, block, talk, (m.Continue,))
            case s.Message():
                events = _events(self._octets(action.content))
                await self._series(events, block, talk, (m.Continue, m.Skip))

    async def _series(
        self,
        events: Sequence[m.CommandMessage],
        block: Block,
        talk: Conversation,
        going_on: tuple[type[m.Reply], ...],
    ) -> None:
        """Several events for one line, up to the first answer that is none of `going_on`."""
        for at, event in enumerate(events):
            await talk.send(event, self._macros)
            last = at == len(events) - 1
            if last or not talk.due:
                continue
            answer = await talk.answer()
            if not isinstance(answer.final, going_on):
                block.answers.append(answer)
                return

    async def _open(self, action: s.Action) -> Conversation:
        """The connection, made and negotiated where there is none."""
        if self._talk is None:
            offer = action if isinstance(action, s.Offer) else s.Offer()
            self._talk = await Conversation.open(self._address, self._patience, offer, self._manner)
            if isinstance(action, s.Say | s.Body | s.Message):
                await self._talk.negotiate()
        return self._talk

    async def _expect(self, wish: s.Wish) -> None:
        if self._block is None:  # parse lets only what concerns the agreement stand here
            await self._do(s.Step(self._line, s.Offer()))
        if self._block is None:
            return
        found, bad = None, status.BAD
        try:
            found = await Judge(self._block).judge(wish)
        except TimeoutError:
            found = f"expected {wish_told(wish)}, found a search for it of over {s.SEARCH:g} s"
        except MilterError as error:
            found, bad = f"expected {wish_told(wish)}, found {error}", error.fault.value
        if found is not None:
            self._fail(f"{self._block.did}: {found}", bad)

    async def _finish(self) -> bool:
        """End the block; whether the scenario goes on."""
        block = self._block
        if block is None:
            return True
        if not self.failures:
            self._line = block.line
            found = await Judge(block).finish()
            if found is not None:
                self._fail(f"{block.did}: {found}", status.BAD)
        self._block = None
        self._record(block)
        if self.failures:
            return False
        if block.excused:
            await self._leave(at_once=True)
        elif block.quits:
            await self._leave(said=True)
        return True

    def _record(self, block: Block) -> None:
        fault = "" if block.fault is None else str(block.fault)
        self.exchanges.append(Exchange(block.line, block.did, tuple(block.answers), fault))

    async def _leave(self, *, at_once: bool = False, said: bool = False) -> None:
        """End the connection if there is one, with a QUIT unless it is said already."""
        talk, self._talk = self._talk, None
        if talk is None:
            return
        try:
            if not (at_once or said or self.failures):
                await talk.send(m.Quit(), {})
        except (MilterError, LocalError):
            at_once = True  # there is nobody to say it to: what matters has been judged
        await talk.close(at_once=at_once or bool(self.failures))

    def _fail(self, text: str, found: int) -> None:
        self.failures.append(Failure(self._line, text))
        self.status = max(self.status, found)

    def _octets(self, content: s.Content) -> bytes:
        if isinstance(content, s.Octets):
            return content.octets * content.times
        return (self._directory / content.path.decode("utf-8", "surrogateescape")).read_bytes()


def _pieces(octets: bytes) -> Iterator[m.CommandMessage]:
    """Pieces of a body as libmilter takes them; an empty one is one empty piece."""
    for at in range(0, len(octets) or 1, CHUNK):
        yield m.BodyChunk(octets[at : at + CHUNK])


def _events(octets: bytes) -> list[m.CommandMessage]:
    """A message as events; bare LF is read as CRLF."""
    mail = parse_message(_BARE_LF.sub(b"\r\n", octets))
    return [
        m.Data(),
        *(m.Header(each.name, each.value) for each in mail.headers),
        m.EndOfHeaders(),
        *(m.BodyChunk(each) for each in mail.body.pieces(CHUNK)),
        m.EndOfMessage(),
    ]
