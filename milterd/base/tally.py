"""Numbers gathered in a process before they go where all processes' numbers are.

A value of prometheus_client that processes share costs a lock, a look at the process's id and a
write to a mapped file each time, and a mail counts eight times.  Here a number is appended to what
waits, and a thread brings all that has gathered to the values, `GATHER` seconds after the first.
A process that is killed loses what it counted in that time, and nothing else; one that ends, and
one that is asked for its own numbers, calls :func:`flush` before.
"""

from __future__ import annotations

import atexit
import os
import threading
from bisect import bisect_left
from collections import Counter as Counted
from collections import deque
from collections.abc import Iterable, Sequence

import prometheus_client

GATHER = 0.2
"""Seconds that a number waits at most, but for a thread that has no processor."""
MOST = 10_000
"""Numbers of one kind that wait at most."""


class Tally:
    """Numbers of one kind: of one metric with its labels.  From any thread."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[float] = deque()
        _keeper.tallies.append(self)

    def add(self, number: float = 1) -> None:
        """One more."""
        self._waiting.append(number)
        if not _keeper.called:  # or else the thread has still to look
            _keeper.call()
        elif len(self._waiting) > MOST:
            self.flush()

    def forget(self) -> None:
        """What waits was another process's to count."""
        self._waiting.clear()

    def flush(self) -> None:
        """Bring what waits to the values."""
        found: list[float] = []
        try:
            while True:
                found.append(self._waiting.popleft())
        except IndexError:  # no more, in whatever thread
            if found:
                self._put(found)

    def _put(self, numbers: Sequence[float]) -> None:
        raise NotImplementedError


class Count(Tally):
    """How often something happened."""

    __slots__ = ("_value",)

    def __init__(self, value: prometheus_client.Counter) -> None:
        super().__init__()
        self._value = value

    inc = Tally.add

    def _put(self, numbers: Sequence[float]) -> None:
        self._value.inc(sum(numbers))


class Times(Tally):
    """How long something took, in seconds."""

    __slots__ = ("_value",)

    def __init__(self, value: prometheus_client.Histogram) -> None:
        super().__init__()
        self._value = value

    observe = Tally.add

    def _put(self, numbers: Sequence[float]) -> None:
        """What Histogram.observe does for each, once for all."""
        value = self._value
        value._sum.inc(sum(numbers))
        bounds = value._upper_bounds
        for at, count in Counted(bisect_left(bounds, each) for each in numbers).items():
            value._buckets[at].inc(count)


class _Keeper:
    """All tallies of the process, and the thread that empties them."""

    def __init__(self) -> None:
        self.tallies: list[Tally] = []
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush)

    def _reset(self) -> None:
        """Also after a fork, in which the thread is lost and the numbers stay the parent's."""
        self.called = False
        self._some = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        for each in self.tallies:
            each.forget()

    def call(self) -> None:
        """Have the thread look, soon."""
        self.called = True
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="tally", daemon=True)
                    self._thread.start()
        self._some.set()

    def _run(self) -> None:
        never = threading.Event()
        while True:
            self._some.wait()
            never.wait(GATHER)
            self._some.clear()
            self.called = False  # before the look: who comes after it calls again
            self.flush()

    def flush(self) -> None:
        for each in list(self.tallies):
            each.flush()


_keeper = _Keeper()


def flush() -> None:
    """Bring all that waits to the values, now."""
    _keeper.flush()


class Flusher:
    """A collector for a process's own registry: whoever reads it finds the latest numbers."""

    def describe(self) -> Iterable[prometheus_client.Metric]:
        """None of its own."""
        return ()

    def collect(self) -> Iterable[prometheus_client.Metric]:
        """The same, once nothing waits."""
        flush()
        return ()
