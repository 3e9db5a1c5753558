"""Make a conversation as small as it can be while the milter still does the same wrong.

First whole writes go, in halves and smaller pieces, then macros, values and octets.
Every smaller one is played again before it is believed; the number of tries is bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import fields, replace

from milterd.lab.fuzz.conversation import Conversation, Ending, Write
from milterd.lab.fuzz.referee import decoded
from milterd.wire import messages as m

Fails = Callable[[Conversation], Awaitable[bool]]
_SHORT = (b"", b"x")
_KEPT = (m.Negotiate, m.Macros)
"""Left as they are: theirs are no free values."""


class _EnoughError(Exception):
    """All tries are used."""


async def shrink(conversation: Conversation, fails: Fails, tries: int) -> Conversation:
    """The smallest found in at most so many tries; `fails` plays one and says whether it
    is still the same wrong."""
    shrinking = _Shrinking(conversation, fails, tries)
    try:
        await shrinking.run()
    except _EnoughError:
        return shrinking.best
    return shrinking.best


class _Shrinking:
    def __init__(self, conversation: Conversation, fails: Fails, tries: int) -> None:
        self.best = conversation
        self._fails, self._left = fails, tries

    async def run(self) -> None:
        size = -1
        while size != (size := self._size()):
            await self._fewer_writes()
            await self._plainer()
            await self._fewer_octets()

    def _size(self) -> int:
        return self.best.size + len(self.best.writes)

    async def _try(self, smaller: Conversation) -> bool:
        if smaller == self.best:
            return False
        if self._left <= 0:
            raise _EnoughError
        self._left -= 1
        if await self._fails(smaller):
            self.best = smaller
            return True
        return False

    async def _fewer_writes(self) -> None:
        step = max(1, len(self.best.writes) // 2)
        while True:
            at, gone = 0, False
            while at < len(self.best.writes):
                writes = self.best.writes
                if await self._try(replace(self.best, writes=writes[:at] + writes[at + step :])):
                    gone = True
                else:
                    at += step
            if step > 1:
                step //= 2
            elif not gone:
                return

    async def _plainer(self) -> None:
        await self._try(replace(self.best, ending=Ending.END))
        for at, each in enumerate(self.best.writes):
            if each.cuts:
                await self._swap(at, Write(each.octets))
            for plainer in _plainer(each.octets):
                await self._swap(at, replace(self.best.writes[at], octets=plainer, cuts=()))

    async def _fewer_octets(self) -> None:
        """Where a write is no sound packet: without some of its octets."""
        for at, write in enumerate(self.best.writes):
            if len(decoded(write.octets)) == 1:
                continue
            step = len(write.octets) // 2
            while step:
                start = 0
                while start < len(octets := self.best.writes[at].octets):
                    rest = octets[:start] + octets[start + step :]
                    if not rest or not await self._swap(at, Write(rest)):
                        start += step
                step //= 2

    async def _swap(self, at: int, write: Write) -> bool:
        if len(write.octets) > len(self.best.writes[at].octets):
            return False
        writes = (*self.best.writes[:at], write, *self.best.writes[at + 1 :])
        return await self._try(replace(self.best, writes=writes))


def _plainer(octets: bytes) -> Iterator[bytes]:
    """A write without its macros, and with each value of its event shorter."""
    commands = decoded(octets)
    if not commands:
        return
    event = commands[-1]
    if len(commands) > 1:
        yield event.encode()
    if isinstance(event, _KEPT):
        return
    if isinstance(event, m.Connect):
        yield m.Connect(b"").encode()  # no free values: an address goes with its family
        return
    for name in [each.name for each in fields(event)]:
        event = decoded(octets)[-1]
        for value in _shorter(getattr(event, name)):
            yield _with(event, name, value)


def _shorter(value: object) -> Sequence[object]:
    if isinstance(value, tuple):
        return ((),) if value else ()
    if isinstance(value, bytes):
        halves = [value[: len(value) // 2], value[len(value) // 2 :]]
        return [each for each in (*_SHORT, *halves) if len(each) < len(value)]
    return ()


def _with(event: m.CommandMessage, name: str, value: object) -> bytes:
    changed: m.CommandMessage = replace(event, **{name: value})  # type: ignore[arg-type]
    return changed.encode()
