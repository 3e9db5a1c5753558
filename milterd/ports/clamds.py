"""Several clamd as one scanner: the first that answers, and none asked in vain again and again.

A clamd that fails is left alone for a time that doubles from one second up to a limit; when the
time is over, one scan tries it again while all others go on elsewhere.  If every clamd is resting,
the one whose time is over first is asked all the same: a failure said late is no better than one
said now.  What a clamd says of a mail is final, be it an error of its own; only silence, refusal
and nonsense make the next one be asked.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from milterd.base import logs, metrics
from milterd.core.mail import Mail
from milterd.ports.scanner import Meanwhile, ScanFact, Unavailable, printable

_SHORTEST = 1.0
_VERSION = re.compile(r"ClamAV (?P<engine>[^/ ]+)(?:/(?P<number>\d+)/(?P<date>.+))?")
_DATE = "%a %b %d %H:%M:%S %Y"
_NOBODY = Unavailable("down", "no clamd is configured")


_LATE = Unavailable("timeout", "no answer in time")

Rest = Callable[[], ScanFact]
"""What is left to do in a thread."""


def _is_well(fact: ScanFact) -> bool:
    """Whether a clamd that gives this answer works; what this machine lacks is not its fault."""
    return not isinstance(fact, Unavailable) or fact.why == "resources"


class OneScanner(Protocol):
    """What :class:`Clamds` asks: a scanner that has a name and keeps to a time."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def scan(
        self, mail: Mail, limit: float | None = None, meanwhile: Meanwhile | None = None
    ) -> ScanFact:
        """The answer within `limit` seconds."""
        ...

    def begin(
        self, mail: Mail, limit: float, then: Callable[[ScanFact | None], None]
    ) -> Callable[[], None] | None:
        """The same in an event loop: see :meth:`Clamd.begin <milterd.ports.clamd.Clamd.begin>`."""
        ...

    def version(self) -> str | Unavailable:
        """What answers."""
        ...


@runtime_checkable
class BeginningScanner(Protocol):
    """A scanner that can be asked in an event loop."""

    def begin(
        self, mail: Mail, then: Callable[[ScanFact | Rest], None]
    ) -> Callable[[], None] | None:
        """See :meth:`Clamds.begin`."""
        ...


@dataclass(slots=True)
class _State:
    until: float = 0.0
    pause: float = 0.0
    trying: bool = False


@dataclass(frozen=True, slots=True)
class Signatures:
    """What a clamd works with: its engine, the number of its signatures and when they were made,
    in seconds since 1970; 0 where it does not say."""

    engine: str
    number: int = 0
    made: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Signatures:
        """From the answer to VERSION: `ClamAV 1.4.3/27500/Fri Nov 20 08:10:01 2026`."""
        found = _VERSION.match(text)
        if found is None:
            return cls(text[:100])
        try:
            made = datetime.strptime(found["date"] or "", _DATE).replace(tzinfo=UTC).timestamp()
        except ValueError:
            made = 0.0
        return cls(found["engine"], int(found["number"] or 0), made)


class Clamds:
    """See the module's contract.  `timeout` seconds bound a scan with all its attempts, `retry`
    is the longest rest of a clamd that fails.  Safe to use from several threads."""

    def __init__(
        self,
        scanners: Sequence[OneScanner],
        *,
        timeout: float,
        retry: float,
        clock: Callable[[], float],
    ) -> None:
        self._scanners, self._timeout, self._retry = tuple(scanners), timeout, retry
        self._clock = clock
        self._states = [_State() for _ in self._scanners]
        self._lock = threading.Lock()

    def scan(self, mail: Mail, *, meanwhile: Meanwhile | None = None) -> ScanFact:
        """See :meth:`Scanner.scan <milterd.ports.scanner.Scanner.scan>`."""
        return self._scan(mail, self._timeout, [], meanwhile)

    def begin(
        self, mail: Mail, then: Callable[[ScanFact | Rest], None]
    ) -> Callable[[], None] | None:
        """The same in the running event loop, without waiting: `then` is called once, with the
        answer, or with work for a thread that gives it.  What is returned calls it off; None where
        nothing was begun, and :meth:`scan` is to be called."""
        if not self._scanners or self._states[0].pause:
            return None
        first, deadline = self._scanners[0], self._clock() + self._timeout

        def rest(tried: list[int], fact: ScanFact) -> ScanFact:
            left = deadline - self._clock()
            return self._scan(mail, left, tried, None, fact) if left > 0 else fact

        def came(fact: ScanFact | None) -> None:
            if fact is None:
                then(lambda: rest([], _LATE))
                return
            self._told(0, fact)
            if not _is_well(fact) and len(self._scanners) > 1:
                then(lambda: rest([0], fact))
            else:
                then(fact)

        return first.begin(mail, max(self._timeout, 0.001) / len(self._scanners), came)

    def _scan(
        self,
        mail: Mail,
        left: float,
        tried: list[int],
        meanwhile: Meanwhile | None,
        fact: ScanFact = _NOBODY,
    ) -> ScanFact:
        """The answer of one that was not tried, within so many seconds; `fact` without one."""
        deadline = self._clock() + left
        while (number := self._choose(tried)) is not None:
            tried.append(number)
            limit = max(left, 0.001) / (len(self._scanners) - len(tried) + 1)
            fact = self._ask(number, mail, limit, meanwhile)
            if _is_well(fact):
                return fact  # what this machine lacks, no other clamd has
            left = deadline - self._clock()
            if left <= 0:
                break
        return fact

    def _ask(self, number: int, mail: Mail, limit: float, meanwhile: Meanwhile | None) -> ScanFact:
        scanner = self._scanners[number]
        try:
            fact = scanner.scan(mail, limit, meanwhile)
        except BaseException:
            self._settle(number, well=False)
            raise
        self._told(number, fact)
        return fact

    def _told(self, number: int, fact: ScanFact) -> None:
        """One of them has given this answer, or none."""
        well = _is_well(fact)
        self._settle(number, well=well)
        if not well:
            metrics.FILTER_FAILURES.labels("clamav", "clamd").inc()

    def _choose(self, tried: Sequence[int]) -> int | None:
        """The first that is well, or due to be tried again; else the one that is due first."""
        if not tried and self._states and not self._states[0].pause:
            return 0  # as nearly always
        with self._lock:
            now = self._clock()
            rest = [each for each in range(len(self._scanners)) if each not in tried]
            for each in rest:
                state = self._states[each]
                if not state.pause:
                    return each
                if now >= state.until and not state.trying:
                    state.trying = True
                    return each
            return min(rest, key=lambda each: self._states[each].until, default=None)

    def _settle(self, number: int, *, well: bool) -> None:
        state = self._states[number]
        if well and not state.pause and not state.trying:
            return
        with self._lock:
            state.trying = False
            if well:
                state.pause = state.until = 0.0
                return
            now = self._clock()
            if now >= state.until:  # several scans that fail together are one failure
                state.pause = min(max(state.pause * 2, _SHORTEST), self._retry)
                state.until = now + state.pause

    def version(self) -> str | Unavailable:
        """Of all of them, in order; why one does not answer if none does."""
        answers = [each.version() for each in self._scanners]
        good = [each for each in answers if isinstance(each, str)]
        if good:
            return ", ".join(good)
        return answers[0] if answers else _NOBODY

    def versions(self) -> list[tuple[str, str | Unavailable]]:
        """What each answers, by its name."""
        return [(each.name, each.version()) for each in self._scanners]


class Watch:
    """Looks now and then, in a thread of its own, what each clamd works with: the age of the
    signatures goes into the metrics, a change and an age over `oldest` seconds into the log.
    `wall` is seconds since 1970."""

    def __init__(
        self,
        clamds: Clamds,
        *,
        oldest: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        every: float = 60.0,
    ) -> None:
        self._clamds, self._oldest, self._clock, self._wall = clamds, oldest, clock, wall
        self._every, self._next = every, 0.0
        self._lock = threading.Lock()
        self._seen: dict[str, str] = {}
        self._log = logs.get("clamav")

    def poke(self) -> None:
        """A mail came: look, if it is time.  Does not wait."""
        now = self._clock()
        if now < self._next:
            return
        with self._lock:
            if now < self._next:
                return
            self._next = now + self._every
        threading.Thread(target=self.look, name="clamd versions", daemon=True).start()

    def troubles(self) -> Iterator[str]:
        """What is wrong with each of them now."""
        for name, answer in self._clamds.versions():
            if not isinstance(answer, str):
                yield f"clamd at {name}: {answer.why} ({printable(answer.text)})"
                continue
            made = Signatures.parse(answer).made
            days = (self._wall() - made) / 86400
            if made and days * 86400 > self._oldest:
                yield f"clamd at {name}: its signatures are {days:.0f} days old"

    def look(self) -> None:
        """Ask each of them now."""
        for name, answer in self._clamds.versions():
            up = isinstance(answer, str)
            metrics.CLAMD_UP.labels(name).set(up)
            if not isinstance(answer, str):
                self._note(name, f"{answer.why}: {answer.text}", "clamd does not answer")
                continue
            found = Signatures.parse(answer)
            age = max(0.0, self._wall() - found.made) if found.made else 0.0
            metrics.CLAMD_SIGNATURES.labels(name).set(age)
            old = age > self._oldest
            self._note(name, answer, "signatures are old" if old else "", number=found.number)

    def _note(self, name: str, answer: str, trouble: str, **facts: object) -> None:
        """A line when something has changed."""
        if self._seen.get(name) == answer:
            return
        self._seen[name] = answer
        if trouble:
            self._log.warning("clamd", clamd=name, version=answer, reason=trouble, **facts)
        else:
            self._log.info("clamd", clamd=name, version=answer, **facts)
