"""What a check may use: connections to the milter, mails, and limits on every wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from milterd.core.mail import Mail
from milterd.lab.conform import samples
from milterd.lab.conform.check import fail, not_applicable
from milterd.lab.conform.judged import Judged, difference
from milterd.lab.conform.talk import Talk
from milterd.lab.link import Fault, MilterError, Patience, connect
from milterd.lab.show import reply_name
from milterd.wire import messages as m
from milterd.wire.errors import PeerError

_SAMPLES = 3
_TICK = 1.1
"""Seconds between two samples of one judgement: the time in a signature has seconds."""
_LATER = frozenset({"tempfail", "shutdown", "connfail"})


@dataclass(frozen=True, slots=True)
class Options:
    """How to grade.

    Seconds: `answer` for each answer, `quiet` for how long to wait where the milter may
    stay silent, `check` for one check, `total` for all, `stop` for the milter's end.
    `jobs`: checks at a time.  `mails`: the first is one that the milter accepts; the
    others are judged in turns with it.  `pid`: the milter's process, which the last
    check ends; None leaves it alone.  `command`: how to start the milter instead, and
    again where it dies; `start` are the seconds it may take until it answers.
    """

    answer: float = 5.0
    quiet: float = 0.3
    check: float = 20.0
    total: float = 300.0
    stop: float = 15.0
    jobs: int = 8
    mails: Sequence[Mail] = field(default_factory=samples.default_mails)
    pid: int | None = None
    command: Sequence[str] = ()
    start: float = 30.0


class Context:
    """One milter that is graded; shared by all checks."""

    def __init__(self, address: str, options: Options) -> None:
        self.address, self.options = address, options
        self.mail, self.pid = options.mails[0], options.pid
        self._alone: dict[int, list[asyncio.Task[Judged]]] = {}

    async def answers(self) -> bool:
        """Whether there is anybody to connect to."""
        try:
            async with self.connected():
                return True
        except MilterError:
            return False

    @asynccontextmanager
    async def connected(
        self, *, offer: m.Negotiate | None = None, **options: Any
    ) -> AsyncIterator[Talk]:
        """A connection, nothing said yet; `options` are those of `link.connect`."""
        patience = Patience(self.options.answer, self.options.total)
        async with connect(self.address, patience=patience, offer=offer, **options) as link:
            yield Talk(link, self.mail)

    async def judged(self, mail: Mail | None = None, **options: Any) -> Judged:
        """What the milter says to a mail on a connection of its own."""
        async with self.connected(**options) as talk:
            await talk.open()
            judged = await talk.message(mail)
            await talk.quit()
        return judged

    async def alone(self, mail: Mail | None = None) -> Judged:
        """As `judged`, once for each mail of the options: what others are held against.

        Does not apply where there is no judgement: a check of its own fails for that.
        """
        return (await self._samples(mail or self.mail, 1))[0]

    async def judge_alone(self) -> None:
        """Make what others are held against while nobody else is there."""
        for mail in self.options.mails:
            await asyncio.wait(self._sampling(mail, 1))

    async def _samples(self, mail: Mail, count: int) -> list[Judged]:
        """That many judgements of a mail alone, each a while after the one before."""
        try:
            return [await asyncio.shield(each) for each in self._sampling(mail, count)]
        except MilterError as error:
            not_applicable(f"a plain mail alone is not judged: {error}")

    def _sampling(self, mail: Mail, count: int) -> list[asyncio.Task[Judged]]:
        tasks = self._alone.setdefault(self.options.mails.index(mail), [])
        while len(tasks) < count:
            tasks.append(asyncio.create_task(self._sample(mail, tasks[-1] if tasks else None)))
        return tasks[:count]

    async def _sample(self, mail: Mail, before: asyncio.Task[Judged] | None) -> Judged:
        if before is not None:
            await asyncio.wait((before,))
            await asyncio.sleep(_TICK)
        return await self.judged(mail)

    async def expect_same(self, seen: Judged, mail: Mail | None = None, when: str = "") -> None:
        """Fail unless `seen` is what the milter says to that mail alone."""
        mail = mail or self.mail
        where = f"{when}: " if when else ""
        expected = await self.alone(mail)
        if seen.shape != expected.shape:
            again = await self.judged(mail)
            if again.shape != expected.shape:
                not_applicable(f"the milter judges one mail differently: {expected}, {again}")
            fail(where + difference(seen, [expected]))
        for count in range(1, _SAMPLES + 1):
            found = difference(seen, await self._samples(mail, count))
            if not found:
                return
        fail(where + found)

    async def expect_alive(self, seen: Judged) -> str:
        """The judgement in words; fail if it is to come again later, unlike the plain mail's:
        what is odd today is odd tomorrow, and the sender tries in vain for days."""
        if seen.verdict in _LATER and (await self.alone()).verdict not in _LATER:
            fail(f"{seen}: the sender will try this mail again and again", seen.stage)
        return str(seen)

    async def close(self) -> None:
        """Nothing more is asked for."""
        tasks = [each for of_mail in self._alone.values() for each in of_mail]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serves(self) -> None:
        """Fail unless the milter serves the next client as ever."""
        try:
            judged = await self.judged()
        except MilterError as error:
            fail(f"the next client is not served: {error}", error.stage, error.octet)
        await self.expect_same(judged, when="the next client")


async def poked(context: Context, talk: Talk, octets: bytes) -> str:
    """Send what breaks the protocol: what the milter does, in words.

    It may answer, close or say nothing, but fails if it sends garbage, or stays open
    after our end of file.
    """
    link = talk.link
    try:
        await link.write(octets)
        said = await _heard(context, talk)
        if said == CLOSES:
            return said
        link.end_of_file()
        while (frame := await link.frame()) is not None:
            _decoded(talk, frame)
    except OSError:
        return CLOSES
    except MilterError as error:
        if error.fault is Fault.GONE:
            return CLOSES
        if error.fault is Fault.SILENT:
            fail(f"open {context.options.answer:g} s after our end of file", *_place(error))
        raise
    return said


CLOSES = "closes"
SILENCE = "says nothing"


async def _heard(context: Context, talk: Talk) -> str:
    try:
        async with asyncio.timeout(context.options.quiet):
            frame = await talk.link.frame()
    except TimeoutError:
        return SILENCE
    return CLOSES if frame is None else f"answers {_decoded(talk, frame)}"


def _decoded(talk: Talk, frame: tuple[int, bytes]) -> str:
    try:
        reply = m.decode_reply(*frame)
    except PeerError as error:
        raise talk.link.broken(error) from error
    return type(reply).__name__ if isinstance(reply, m.Negotiate) else reply_name(reply)


def _place(error: MilterError) -> tuple[str, int]:
    return error.stage, error.octet
