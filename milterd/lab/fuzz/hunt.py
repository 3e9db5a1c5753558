"""A hunt: conversation after conversation, each judged; what is found is shrunk and kept.

Run N of a seed is always the same conversation, whatever was found before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from milterd.base.sockets import SocketAddress
from milterd.lab.fuzz import generate
from milterd.lab.fuzz.conversation import Conversation, Write, save
from milterd.lab.fuzz.mutate import fragment, mutate
from milterd.lab.fuzz.play import Played, Wrong, play
from milterd.lab.fuzz.process import Watched
from milterd.lab.fuzz.referee import decoded
from milterd.lab.fuzz.shrink import shrink
from milterd.lab.link import STAGES
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol

_SETTLE = 0.3
"""Seconds in which a process that has left its connections is seen to have died."""
_WARM = 5
"""Plays of the good conversation before memory is first looked at."""
_SUSPECTS = 5
"""How many conversations may be the one that made it grow."""
_REPEATED = 10
"""How often a conversation is played to see what memory it costs."""

_GOOD = Conversation(
    tuple(
        Write(each.encode())
        for each in (
            m.Negotiate(6, Actions.ALL, Protocol.ALL),
            m.Connect(b"localhost"),
            m.Helo(b"localhost"),
            m.MailFrom(b"<sender@example.org>"),
            m.RcptTo(b"<recipient@example.net>"),
            m.Data(),
            m.Header(b"Subject", b"good"),
            m.EndOfHeaders(),
            m.BodyChunk(b"good\r\n"),
            m.EndOfMessage(),
            m.Abort(),
            m.Quit(),
        )
    ),
    adapt=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`seed` decides all conversations, `runs` and `duration` (seconds) when it ends.

    `answer`: seconds the milter has for an answer.  `tries`: how many smaller ones are
    played for each finding.  `memory`: octets that the process may grow by.  `most`:
    findings after which it ends.  `out`: where tapes go.  `legal`: only what an MTA can
    come to send.
    """

    seed: int = 0
    runs: int | None = None
    duration: float | None = None
    answer: float = 5.0
    tries: int = 400
    memory: int = 64 << 20
    most: int = 10
    out: Path = Path()
    legal: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A wrong, the smallest conversation that was found to do it, and its tape.

    `confirmed`: it was seen again; `run` counts from 1, tapes first.
    """

    wrong: Wrong
    conversation: Conversation
    run: int
    confirmed: bool
    tape: Path


Progress = Callable[[str], None]


class Hunt:
    """One hunt against one milter."""

    def __init__(
        self,
        target: SocketAddress,
        plan: Plan,
        watched: Watched,
        tapes: Sequence[Conversation] = (),
        progress: Progress | None = None,
    ) -> None:
        self._target, self._plan, self._watched = target, plan, watched
        self._tapes, self._progress = tapes, progress or (lambda _: None)
        self._base = 0
        self._heaviest: list[tuple[int, Conversation]] = []
        self._known: set[tuple[str, str]] = set()
        self.findings: list[Finding] = []
        self.runs = 0

    async def run(self) -> None:
        """Until the plan's end.  Raises ProcessError where the milter cannot be started,
        OSError where a tape cannot be written."""
        await self._watched.start()
        try:
            if not await self._begin():
                return
            ends = None
            if self._plan.duration is not None:
                ends = time.monotonic() + self._plan.duration
            for conversation in self._conversations():
                if ends is not None and time.monotonic() > ends:
                    break
                self.runs += 1
                self._progress(f"run {self.runs}, {len(self.findings)} findings")
                if not await self._one(conversation):
                    break
        finally:
            await self._watched.stop()

    async def _begin(self) -> bool:
        """Whether the good conversation passes to begin with; a finding if not."""
        for _ in range(_WARM):
            played = await play(self._target, _GOOD, self._plan.answer)
            if (wrong := played.wrong) is not None:
                again = (await play(self._target, _GOOD, self._plan.answer)).wrong
                self._keep(_GOOD, played, again is not None and again.key == wrong.key)
                return False
        self._base = self._watched.memory()
        return True

    def _conversations(self) -> Iterator[Conversation]:
        yield from self._tapes
        number = 0
        while self._plan.runs is None or number < self._plan.runs:
            yield self._made(number)
            number += 1

    def _made(self, number: int) -> Conversation:
        """The conversation of a run: the seed and the number alone decide it."""
        random = Random(f"{self._plan.seed}:{number}")  # noqa: S311 - to be had again, not secret
        kind = random.random()
        if self._plan.legal:
            made = generate.legal(random)
            return fragment(made, random) if kind < 0.2 else made
        if kind < 0.4:
            return generate.legal(random)
        if kind < 0.55:
            return generate.illegal(random)
        taped = self._tapes and random.random() < 0.6
        return mutate(random.choice(self._tapes) if taped else generate.legal(random), random)

    async def _one(self, conversation: Conversation) -> bool:
        """Play and judge one; False when the milter can take no more."""
        before = self._watched.memory()
        played = await self._judge(conversation, self._plan.answer)
        self._note_growth(self._watched.memory() - before, conversation)
        if played.wrong is None:
            return True
        able = await self._recover()
        if played.wrong.key not in self._known:
            await self._found(conversation, played, able)
            able = await self._recover()
        return able and len(self.findings) < self._plan.most

    def _note_growth(self, octets: int, conversation: Conversation) -> None:
        """Remember the conversations that made the process grow most."""
        self._heaviest.append((octets, conversation))
        self._heaviest.sort(key=lambda each: -each[0])
        del self._heaviest[_SUSPECTS:]

    # --- judging --------------------------------------------------------------------

    async def _judge(self, conversation: Conversation, answer: float) -> Played:
        played = await play(self._target, conversation, answer)
        return replace(played, wrong=await self._verdict(played, answer))

    async def _verdict(self, played: Played, answer: float) -> Wrong | None:
        """What was wrong, the milter's state afterwards included: worse goes before bad."""
        wrong, stage = played.wrong, _last_stage(played)
        probe = wrong
        if wrong is None or wrong.kind != "deaf":
            probe = (await play(self._target, _GOOD, answer)).wrong
        if probe is not None:
            if died := await self._dies():
                return Wrong("died", stage, died)
            if wrong is None:
                what = f"a good conversation afterwards: {probe.kind} at {probe.stage}"
                return Wrong("deaf", stage, f"{what}, {probe.what}")
        grown = self._watched.memory() - self._base
        if wrong is None and grown > self._plan.memory:
            return Wrong("memory", "process", f"grown by {grown >> 20} MiB")
        return wrong

    async def _dies(self) -> str:
        """How the process died, if it does within a moment."""
        ends = time.monotonic() + _SETTLE
        while not (died := self._watched.died()) and time.monotonic() < ends:
            if not self._watched.known:
                return ""
            await asyncio.sleep(0.01)
        return died

    async def _recover(self) -> bool:
        """Have a milter that works again; False where that cannot be."""
        working = not self._watched.died()
        working = working and (await play(self._target, _GOOD, self._plan.answer)).wrong is None
        grown = self._watched.memory() - self._base > self._plan.memory
        if self._watched.restarts and (not working or grown):
            await self._watched.start()
            for _ in range(_WARM):
                await play(self._target, _GOOD, self._plan.answer)
            self._base = self._watched.memory()
            return True
        if grown:
            self._base = self._watched.memory()
        return working

    # --- what was found -------------------------------------------------------------

    async def _found(self, conversation: Conversation, played: Played, able: bool) -> None:
        """Shrink it, see it once more, and keep it."""
        wrong = played.wrong
        assert wrong is not None  # noqa: S101 - that is what was found
        self._known.add(wrong.key)
        best, confirmed = conversation, False
        if able:
            hurry = min(self._plan.answer, max(0.3, self._plan.answer / 10))

            async def fails(smaller: Conversation) -> bool:
                self._progress(f"shrinking {wrong.kind} at {wrong.stage}: {smaller.size} octets")
                return await self._again(smaller, wrong, hurry) is not None

            suspects = [conversation]
            if wrong.kind == "memory":
                suspects = [each for _, each in self._heaviest]
            for each in suspects:
                if await fails(each):
                    conversation = each
                    best = await shrink(each, fails, self._plan.tries)
                    break
            again = await self._again(best, wrong, self._plan.answer)
            if again is None and best is not conversation:
                best = conversation
                again = await self._again(best, wrong, self._plan.answer)
            confirmed = again is not None
            played = again or played
        self._keep(replace(best, writes=played.sent or best.writes), played, confirmed)

    async def _again(
        self, conversation: Conversation, wrong: Wrong, answer: float
    ) -> Played | None:
        """Play it; what came of it if that was the same wrong.  The milter works afterwards."""
        if wrong.kind == "memory":
            return await self._grows(conversation, wrong, answer)
        played = await self._judge(conversation, answer)
        same = played.wrong is not None and played.wrong.key == wrong.key
        if played.wrong is not None and not await self._recover():
            return played if same else None
        return played if same else None

    async def _grows(
        self, conversation: Conversation, wrong: Wrong, answer: float
    ) -> Played | None:
        """Whether playing it some times makes the process grow each time."""
        played = await play(self._target, conversation, answer)
        before = self._watched.memory()
        for _ in range(_REPEATED):
            await play(self._target, conversation, answer)
        grown = (self._watched.memory() - before) // _REPEATED
        await self._recover()
        if grown < max(4096, self._plan.memory >> 10):
            return None
        words = f"grows by about {grown >> 10} KiB each time"
        return replace(played, wrong=Wrong("memory", wrong.stage, words))

    def _keep(self, conversation: Conversation, played: Played, confirmed: bool) -> None:
        wrong = played.wrong
        assert wrong is not None  # noqa: S101 - that is what was found
        note = f"{wrong.kind} at {wrong.stage}: {wrong.what}"
        path = self._save(conversation, played, wrong, note)
        self.findings.append(Finding(wrong, conversation, self.runs, confirmed, path))

    def _save(self, conversation: Conversation, played: Played, wrong: Wrong, note: str) -> Path:
        number = 1
        while True:
            path = self._plan.out / f"finding-{wrong.kind}-{number}.tape"
            try:
                save(path, conversation, played.said, note)
            except FileExistsError:
                number += 1
            else:
                return path


def _last_stage(played: Played) -> str:
    """The last event that was sent, by its name."""
    for write in reversed(played.sent):
        for each in reversed(decoded(write.octets)):
            if type(each) in STAGES:
                return STAGES[type(each)]
    return "connection"
