"""Sessions with a clamd in an event loop: many mails wait for it, and no thread with them.

What is trusted, and when sessions are tried at all, is as in :mod:`milterd.ports.clamd_session`.
Nothing here waits: what would, and whatever is not plain, is left to the caller, who asks in a
thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from milterd.base.alarm import Alarm
from milterd.ports.clamd_session import IDLE, KEPT, Session, Sessions, place_of

MOST = 256
"""Sessions at a time; who comes beyond has a thread, or waits for one."""

Then = Callable[[str | None], None]
"""Is told what clamd says of a mail; nothing where it has to be asked on a connection of its own,
None where it has said nothing in its time."""


class LoopSessions:
    """The sessions of the running event loop with the clamd at `path`."""

    def __init__(self, path: str, trust: Sessions, clock: Callable[[], float]) -> None:
        self._path, self._trust, self._clock = path, trust, clock
        self._idle: list[_LoopSession] = []
        self._count = 0

    def begin(self, parts: Sequence[bytes], limit: float, then: Then) -> Callable[[], None] | None:
        """Have clamd look at a mail of these octets; what is returned calls it off.  `then` is
        called once, within `limit` seconds, unless there is nothing to be had at once: None."""
        session = self._take()
        if session is None:
            return None
        try:
            session.ask(parts, limit, then)
        except OSError:  # it has been closed, or there is no memory: a thread will tell
            session.end()
            return None
        return session.end

    def keep(self, session: _LoopSession) -> None:
        """It has answered, and may be asked again."""
        if len(self._idle) < KEPT:
            self._idle.append(session)
        else:
            session.end()

    def ended(self, session: _LoopSession) -> None:
        """It is closed."""
        self._count -= 1
        if session in self._idle:
            self._idle.remove(session)

    def refused(self) -> None:
        """This clamd has not taken the first mail of a session."""
        self._trust.refused()

    def now(self) -> float:
        """The clock by which sessions are idle."""
        return self._clock()

    def _take(self) -> _LoopSession | None:
        now, loop = self._clock(), asyncio.get_running_loop()
        place = place_of(self._path)
        while self._idle:
            session = self._idle.pop()
            if session.fits(loop, place, now):
                return session
            session.end()
        if self._count >= MOST or not self._trust.tried(now):
            return None
        try:
            made = _LoopSession(self, self._path, loop)
        except OSError:
            return None  # a connection of its own will tell why
        self._count += 1
        return made


class _LoopSession:
    """One session, which reads as soon as clamd says something, or closes."""

    def __init__(self, home: LoopSessions, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._home, self._loop = home, loop
        self._session = Session(path, 0.0)
        self._used = 0.0
        self._then: Then | None = None
        self._alarm = Alarm(loop, self._late)
        self._ended = False
        loop.add_reader(self._session.fileno(), self._readable)

    def fits(
        self, loop: asyncio.AbstractEventLoop, place: tuple[int, int] | None, now: float
    ) -> bool:
        """Whether a mail of this loop can be asked about in it."""
        return self._loop is loop and self._session.place == place and now - self._used < IDLE

    def ask(self, parts: Sequence[bytes], limit: float, then: Then) -> None:
        """See :meth:`LoopSessions.begin`.  Raises OSError."""
        self._session.begin(parts)
        self._then = then
        self._alarm.set(self._loop.time() + limit)

    def end(self) -> None:
        """Close it, and tell nobody."""
        if self._ended:
            return
        self._ended, self._then = True, None
        self._alarm.close()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._session.fileno())
        self._session.close()
        self._home.ended(self)

    def _readable(self) -> None:
        then, self._then = self._then, None
        try:
            answer = self._session.answer() if then is not None else ""
        except BlockingIOError:
            self._then = then
            return
        except OSError:
            answer = ""
        if answer:
            self._alarm.clear()
            self._used = self._home.now()
            self._home.keep(self)
        else:
            if then is not None and self._session.asked == 1:
                self._home.refused()
            self.end()
        if then is not None:
            then(answer)

    def _late(self) -> None:
        then = self._then
        self.end()
        if then is not None:
            then(None)
