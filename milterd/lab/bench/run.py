"""Rounds of a bench: so many connections at once to one milter, for so long or so many mails.

Everything runs in one thread on one event loop, so that the processor time of the process
is what the client's side costs.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from milterd.base.sockets import SocketAddress, parse
from milterd.core.mail import Mail
from milterd.lab.bench.histogram import Histogram
from milterd.lab.bench.packets import Script, message, script
from milterd.lab.bench.session import Session
from milterd.lab.link import STAGES, Fault, MilterError, reach
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import NEWEST_VERSION, Protocol
from milterd.wire.errors import PeerError
from milterd.wire.mta import MtaConnection

_LOOK = 0.1
"""Seconds between two looks whether somebody waits for too long."""
_NO_REPLY = Protocol(0xFF080)
"""The flags by which a milter leaves events unanswered (SMFIP_NR_*)."""

Progress = Callable[[int, float], None]
"""Told, now and then, how many mails were answered in how many seconds of this round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a round is.

    `duration` in seconds; `messages` ends it earlier.  `size` octets and `headers` fields
    a mail, `keep` mails a connection.  `answer`: seconds to wait for one answer.
    `every_answer`: offer no flag by which an event goes unanswered.
    """

    connections: int = 8
    size: int = 4096
    headers: int = 10
    keep: int = 10
    duration: float = 2.0
    messages: int | None = None
    answer: float = 30.0
    version: int = NEWEST_VERSION
    every_answer: bool = False


class Round:
    """What one round came to; the ledger of its sessions while it lasts.

    `verdicts` counts mails by the stage and the name of the answer that settled them.
    `seconds` and `cpu` (of this process, user and system) are those of the whole round.
    """

    def __init__(self, plan: Plan, mail: Mail, numbers: itertools.count[int]) -> None:
        self.stages = {stage: Histogram() for stage in STAGES.values()}
        self.whole = Histogram()
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.violations: dict[str, int] = {}
        self.mails = self.octets = 0
        self.seconds = self.cpu = 0.0
        self.over = False
        self._plan, self._mail, self._numbers = plan, mail, numbers
        self._given = 0
        self.offered = self._offering().negotiate()
        # What the last milter said, and what came of it: mostly every connection is told the same.
        self._answer, self._found = b"", cast("tuple[Negotiated, Script] | None", None)

    # --- for the sessions -----------------------------------------------------------

    def agreed(self, answer: bytes) -> tuple[Negotiated, Script] | None:
        if answer != self._answer or self._found is None:
            mta = self._offering()
            mta.negotiate()
            taken = mta.receive(answer)
            if not taken:
                return None
            agreed = taken[0]
            assert isinstance(agreed, Negotiated)  # noqa: S101 - nothing else answers an offer
            if mta.taken != len(answer):
                raise PeerError("more after the answer to Negotiate")
            self._answer, self._found = answer, (agreed, script(self._mail, agreed, self.stages))
        return self._found

    def _offering(self) -> MtaConnection:
        protocol = Protocol.ALL & ~_NO_REPLY if self._plan.every_answer else Protocol.ALL
        return MtaConnection(version=self._plan.version, protocol=protocol)

    def next_number(self) -> int | None:
        if self.over:
            return None
        self._given += 1
        self.over = self._given == self._plan.messages
        return next(self._numbers)

    def mail_done(self, stage: str, reply: m.Reply) -> None:
        self.mails += 1
        self.octets += self._mail.size
        self.verdicts[stage, type(reply).__name__.lower()] += 1


class Bench:
    """The rounds against one or more milters with one plan; no two mails are alike."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.mail = message(plan.size, plan.headers)
        self._numbers = itertools.count(time.time_ns() & 0xFFFFFFFFFFFF)

    async def round(self, address: str, progress: Progress | None = None) -> Round:
        """One round.  Raises MilterError for whatever the milter does wrong, and ValueError
        for an address that is none."""
        found = Round(self.plan, self.mail, self._numbers)
        target, sessions = parse(address), set[Session]()
        gc.collect()
        cpu, began = time.process_time(), time.perf_counter()
        workers = [
            asyncio.create_task(self._work(target, address, found, sessions))
            for _ in range(self.plan.connections)
        ]
        watch = asyncio.create_task(self._watch(found, sessions, progress))
        try:
            await asyncio.gather(*workers)
        finally:
            for each in (watch, *workers):
                each.cancel()
            await asyncio.gather(watch, *workers, return_exceptions=True)
        found.seconds, found.cpu = time.perf_counter() - began, time.process_time() - cpu
        return found

    async def _work(
        self, target: SocketAddress, address: str, found: Round, sessions: set[Session]
    ) -> None:
        """One connection after the other."""
        loop = asyncio.get_running_loop()
        while not found.over:
            began = time.perf_counter_ns()
            done: asyncio.Future[None] = loop.create_future()
            session = Session(found, self.plan.keep, began, done)
            try:
                async with asyncio.timeout(self.plan.answer):
                    await _connect(target, session)
            except TimeoutError:
                words = f"no connection to {address} within {self.plan.answer:g} s"
                raise MilterError(Fault.SILENT, words, "connection") from None
            except OSError as error:
                words = f"no connection to {address}: {error.strerror or error}"
                raise MilterError(Fault.GONE, words, "connection") from error
            sessions.add(session)
            try:
                await done
            finally:
                sessions.discard(session)
                if not done.done():
                    session.abandon()

    async def _watch(self, found: Round, sessions: set[Session], progress: Progress | None) -> None:
        """End the round in time, and whoever waits too long."""
        began = time.perf_counter_ns()
        looks = 0
        while True:
            left = self.plan.duration - (time.perf_counter_ns() - began) / 1e9
            await asyncio.sleep(min(_LOOK, max(left, 0.001)) if not found.over else _LOOK)
            now, looks = time.perf_counter_ns(), looks + 1
            seconds = (now - began) / 1e9
            found.over = found.over or seconds >= self.plan.duration
            for each in list(sessions):
                if now - each.since > self.plan.answer * 1e9:
                    each.fail(Fault.SILENT, f"no answer within {self.plan.answer:g} s")
            if progress is not None and looks % 5 == 0:
                progress(found.mails, seconds)


async def _connect(target: SocketAddress, session: Session) -> None:
    loop = asyncio.get_running_loop()
    if target.kind != "unix":
        await loop.create_connection(lambda: session, target.host, target.port)
        return
    end = socket.socket(socket.AF_UNIX)
    try:
        end.setblocking(False)
        await reach(end, target.path)
        await loop.create_unix_connection(lambda: session, sock=end)
    except BaseException:
        end.close()
        raise
