"""One connection of a bench: an MTA's session of several mails, as cheap as it can be.

The usual way is short: five octets that are a plain Continue, one count in a
histogram, one write.  Every other octet goes through `Answers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol, cast

from milterd.lab.bench.answers import Answers
from milterd.lab.bench.histogram import Histogram
from milterd.lab.bench.packets import NUMBER_FORMAT, Script, Step
from milterd.lab.link import WORDS, Fault, MilterError
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.errors import PeerError
from milterd.wire.states import CommandType

_PLAIN = m.Continue()
_CONTINUE = _PLAIN.encode()
_ABORT = m.Abort().encode()
_BYE = _ABORT + m.Quit().encode()


class Ledger(Protocol):
    """Where a session gets its work and writes what it saw."""

    """`offered` is the offer's packet."""

    stages: dict[str, Histogram]
    whole: Histogram
    violations: dict[str, int]

    offered: bytes

    def agreed(self, answer: bytes) -> tuple[Negotiated, Script] | None:
        """What an answer to the offer comes to, and what to say then; None until it is
        whole.  Raises PeerError."""
        ...

    def next_number(self) -> int | None:
        """The number of the next mail; None when no more are to be sent."""
        ...

    def mail_done(self, stage: str, reply: m.Reply) -> None:
        """A mail was answered for good, at that stage."""
        ...


class Session(asyncio.Protocol):
    """See above.  `done` is set when it is over, to a MilterError if it ended badly.

    `began` is when connecting began, by perf_counter_ns; `keep` how many mails at most.
    `since` is when the milter was last given something to answer.
    """

    __slots__ = (
        "_answers",
        "_asked",
        "_at",
        "_carried",
        "_done",
        "_last",
        "_ledger",
        "_left",
        "_mail",
        "_mail_since",
        "_number",
        "_offer_answer",
        "_plain",
        "_record",
        "_stage",
        "_steps",
        "_transport",
        "_usual",
        "_write",
        "since",
    )

    def __init__(self, ledger: Ledger, keep: int, began: int, done: asyncio.Future[None]) -> None:
        self._ledger, self._left, self._done = ledger, keep, done
        self.since = self._mail_since = began
        self._offer_answer = b""
        self._answers: Answers | None = None
        self._transport: asyncio.Transport
        self._write: Callable[[bytes], None]
        self._usual = False
        self._mail: tuple[Step, ...] = ()
        self._steps: tuple[Step, ...] = ()
        self._at = self._last = self._plain = 0
        self._record: Callable[[int], None]
        self._asked: CommandType = m.Negotiate
        self._stage = "negotiate"
        self._number = self._carried = b""

    # --- what the transport tells ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write
        self._write(self._ledger.offered)

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        if data == _CONTINUE and self._usual:
            # The short way, for nearly every answer: no call that is not needed.
            self._plain += 1
            self._record(now - self.since)
            at = self._at
            if at < self._last:
                self._at = at = at + 1
                step = self._steps[at]
                self._asked, self._stage, self._record = step.asked, step.stage, step.record
                octets = step.octets(self._number) if step.parts else step.rest
                self.since = perf_counter_ns()
                self._write(octets)
            else:
                self._ended(_PLAIN, now, True)
            return
        try:
            if self._answers is None:
                self._negotiated(data, now)
            else:
                self._unusual(self._answers, data, now)
        except PeerError as error:
            self.fail(Fault.BROKEN, error.reason)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, OSError):
            self._done.set_exception(error)  # a fault of ours is not the milter's
        elif not self._done.done():
            self.fail(Fault.GONE, str(error) if error else "closed with an answer due")

    def fail(self, fault: Fault, what: str) -> None:
        """End it at once, with this fault of the milter's."""
        if not self._done.done():
            good = self._answers.good if self._answers is not None else 0
            octet = good + len(_CONTINUE) * self._plain
            words = f"{WORDS[fault]} at {self._stage}, octet {octet} of the milter's: {what}"
            self._done.set_exception(MilterError(fault, words, self._stage, octet))
        self._transport.abort()

    def abandon(self) -> None:
        """End it at once; it does not matter any more."""
        if not self._done.done():
            self._done.cancel()
        self._transport.abort()

    # --- what the milter answered ---------------------------------------------------

    def _negotiated(self, data: bytes, now: int) -> None:
        self._offer_answer += data
        found = self._ledger.agreed(self._offer_answer)
        if found is None:
            return
        agreed, script = found
        self._ledger.stages["negotiate"].record(now - self.since)
        self._answers, self._usual = Answers(agreed, self._ledger.violations), True
        self._answers.good = len(self._offer_answer)
        self._mail, self._carried = script.mail, script.carried
        if script.session:
            self._begin(script.session, b"")
        else:
            self._next_mail(b"")

    def _unusual(self, answers: Answers, data: bytes, now: int) -> None:
        """Anything but a plain Continue, or a piece of it."""
        answers.feed(data)
        reply = answers.take(self._asked)
        self._usual = not answers.partial
        if reply is None:
            return
        if answers.partial:
            raise PeerError(f"more after the answer to {self._asked.__name__}")
        self._record(now - self.since)
        settled = _settles(self._asked, reply)
        if isinstance(reply, m.Skip):
            self._skip()
        if not settled and self._at < self._last:
            self._at += 1
            self._say(b"")
        else:
            self._ended(reply, now, not settled)

    def _ended(self, reply: m.Reply, now: int, told_all: bool) -> None:
        """The steps at hand are over: `told_all`, or settled by an answer before their end."""
        if self._number:
            self._ledger.whole.record(now - self._mail_since)
            self._ledger.mail_done(self._stage, reply)
            if isinstance(reply, m.Shutdown | m.ConnFail):
                self._leave(_BYE)
            else:
                self._next_mail(_ABORT)
        elif told_all:
            self._next_mail(b"")
        else:
            # Settled for the whole session: Postfix closes, and remembers the answer.
            if self._ledger.next_number() is not None:
                self._ledger.mail_done(self._stage, reply)
            self._leave(b"")

    def _skip(self) -> None:
        """Leave out what follows of the same kind."""
        while self._at < self._last and self._steps[self._at + 1].asked is self._asked:
            self._at += 1

    # --- what is said ---------------------------------------------------------------

    def _begin(self, steps: tuple[Step, ...], before: bytes) -> None:
        self._steps, self._at, self._last = steps, 0, len(steps) - 1
        self._say(before)

    def _say(self, before: bytes) -> None:
        """Write the step at hand, after what needs no answer."""
        step = self._steps[self._at]
        self._asked, self._stage, self._record = step.asked, step.stage, step.record
        octets = before + step.octets(self._number)
        self.since = perf_counter_ns()
        self._write(octets)

    def _next_mail(self, before: bytes) -> None:
        number = self._ledger.next_number() if self._left else None
        if number is None:
            self._leave(before + self._carried + _BYE)
            return
        self._left -= 1
        self._number = NUMBER_FORMAT % number
        before, self._carried = before + self._carried, b""
        self._mail_since = perf_counter_ns()
        self._begin(self._mail, before)

    def _leave(self, last: bytes) -> None:
        if last:
            self._write(last)
        if not self._done.done():
            self._done.set_result(None)
        self._transport.close()


def _settles(asked: CommandType, reply: m.Reply) -> bool:
    """Whether nothing more need be told: of the mail, or of the session at its beginning."""
    if isinstance(reply, m.Discard):
        return asked not in (m.Connect, m.Helo)  # means nothing there
    return not isinstance(reply, m.Continue | m.Skip)
