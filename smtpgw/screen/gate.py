"""Screening on a connection: the thin part with sockets and clocks.

The tests themselves are in :mod:`smtpgw.screen.early`, `deep` and `dummy`; here the client is
waited for, the lists are asked, what happened is logged, and what was passed is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from smtpgw.dns.answers import AddressAnswer, Family, Resolver
from smtpgw.edge.conversation import SHUTDOWN, Conversation, Goodbye
from smtpgw.edge.inbox import AttentionError
from smtpgw.edge.road import Answer, Connection, Note, Refused, no_note
from smtpgw.screen.cache import PassCache
from smtpgw.screen.deep import Deep, Offence
from smtpgw.screen.dummy import Dummy, Output, Wanted
from smtpgw.screen.early import Access, Early, Verdict
from smtpgw.screen.options import UNAVAILABLE, ScreenOptions, softened
from smtpgw.screen.passes import DEEP, Passes, Test
from smtpgw.screen.score import Counting
from smtpgw.screen.sites import Site

ALL_BUSY = Answer(421, "4.3.2", "All screening ports are busy", hangup=True)
TOO_MANY = Answer(421, "4.7.0", "Error: too many connections", hangup=True)
READY_FOR_TLS = Answer(220, "2.0.0", "Ready to start TLS")


@dataclass(frozen=True, slots=True)
class ScreenMeans:
    """What screens share.  `access` says what the access list has for an address, `allows`
    whether clients become known at an address of ours; `wall` is seconds since 1970."""

    resolver: Resolver
    cache: PassCache
    access: Callable[[str], Awaitable[Access]]
    allows: Callable[[str], Awaitable[bool]]
    wall: Callable[[], float]
    log: FilteringBoundLogger
    note: Note = no_note


class Gate:
    """A :class:`~smtpgw.edge.screening.Screen`: one listener's.  `stressed` are its options while
    the listener is under stress."""

    def __init__(
        self, options: ScreenOptions, means: ScreenMeans, stressed: ScreenOptions | None = None
    ) -> None:
        self.options, self.means = options, means
        self.stressed = stressed or options
        self.screening: Counter[str] = Counter()

    def meet(self, connection: Connection) -> Guest:
        """A client has connected."""
        return Guest(self, connection)


class Guest:
    """A :class:`~smtpgw.edge.screening.Screened`."""

    def __init__(self, gate: Gate, connection: Connection) -> None:
        self._gate, self._means = gate, gate.means
        self._options = gate.stressed if connection.stressed else gate.options
        self._connection = connection
        self._client = connection.client.address.decode("ascii", "replace")
        self._log = self._means.log.bind(
            listener=connection.listener, client=self._client, session=connection.session
        )
        self._early: Early | None = None
        self._deep: Deep | None = None
        self._counted = self._went_on = False
        self._facts: dict[str, object] = {}
        self._asking: list[asyncio.Task[None]] = []
        self._counting = Counting(self._options.dnsbl_sites)
        self._answered = asyncio.Event()

    @property
    def hides_pipelining(self) -> bool:
        return self._deep is not None and bool(self._deep.todo)

    # -- before the banner ---------------------------------------------------------

    async def greet(self, conversation: Conversation) -> None:
        if not self._client:
            return  # by a UNIX socket
        early = await self._met(conversation)
        if early is None:
            return
        self._early = early
        try:
            await self._wait(conversation, early)
        finally:
            for each in self._asking:
                each.cancel()
        verdict = early.conclude(self._counting.score, self._means.wall())
        self._tell_lists(early)
        if verdict.part is not None:
            await self._part(conversation, verdict.part, "CONNECT")
        await self._go_on(conversation, early, verdict)

    async def _met(self, conversation: Conversation) -> Early | None:
        """The tests to make; None if there are none."""
        options, means = self._options, self._means
        self._count(1)
        if options.client_limit and self._gate.screening[self._client] > options.client_limit:
            await self._part(conversation, TOO_MANY, "CONNECT")
        access = await means.access(self._client)
        if access is Access.PERMIT:
            self._end("allowlisted")
            return None
        if access is Access.REJECT:
            self._say("denylisted", action=options.denylist_action)
        passes = await means.cache.find(self._client)
        veto = not await means.allows(self._connection.local_address.decode("ascii", "replace"))
        early = Early(options, self._client, access, passes, means.wall(), veto=veto)
        if early.part is not None:
            await self._part(conversation, early.part, "CONNECT")
        if not early.todo and early.refuse is None:
            self._end("pass old")
            return None
        if self._gate.screening.total() > options.pre_queue_limit > 0:
            await self._part(conversation, ALL_BUSY, "CONNECT")
        return early

    async def _wait(self, conversation: Conversation, early: Early) -> None:
        """Until the client has spoken, the lists have answered, or the time is over."""
        options, loop = self._options, asyncio.get_running_loop()
        began = loop.time()
        if early.waiting and Test.PREGREET in early.todo and options.greet_banner:
            await conversation.push(f"220-{options.greet_banner}")
            await conversation.flush()
        if early.waiting and Test.DNSBL in early.todo:
            self._ask_lists()
        heard = False
        while early.waiting and (left := began + options.greet_wait - loop.time()) > 0:
            if conversation.inbox.waiting and not heard:
                heard = True
                self._spoke(conversation, early, loop.time() - began)
            else:
                await self._event(conversation, left, deaf=heard)
            if self._answered.is_set():
                early.scored(self._counting.score, self._means.wall())

    async def _event(self, conversation: Conversation, left: float, *, deaf: bool) -> None:
        """Until something happens, at most `left` seconds.  Who hangs up ends it."""
        waits: list[asyncio.Future[Any]] = []
        if self._asking and not self._answered.is_set():
            waits.append(asyncio.ensure_future(self._answered.wait()))
        more: asyncio.Future[Any] | None = None
        if not deaf:
            more = asyncio.ensure_future(conversation.inbox.more())
            waits.append(more)
        try:
            if waits:
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(left)
            if more is not None and more.done():
                more.result()
        except AttentionError:
            await self._part(conversation, SHUTDOWN, "CONNECT")
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _spoke(self, conversation: Conversation, early: Early, after: float) -> None:
        if Test.PREGREET not in early.todo:
            return
        early.talked()
        self._say(
            "pregreet",
            action=self._options.action(Test.PREGREET),
            sent=conversation.inbox.peek(100),
            after=round(after, 2),
        )

    def _ask_lists(self) -> None:
        address = ip_address(self._client)

        async def ask(site: Site) -> None:
            answer: AddressAnswer = await self._means.resolver.address(
                site.question(address), Family.IPV4, self._options.dnsbl_timeout
            )
            self._counting.answered(site, answer)
            if self._counting.score.complete:
                self._answered.set()

        self._asking = [asyncio.ensure_future(ask(each)) for each in self._options.dnsbl_sites]

    def _tell_lists(self, early: Early) -> None:
        score = early.score
        if score is None or not score.listings:
            return
        self._say(
            "dnsbl",
            action=self._options.action(Test.DNSBL),
            rank=score.total,
            threshold=self._options.dnsbl_threshold,
            complete=score.complete,
            lists={each.domain: f"{each.said} ({each.weight:+d})" for each in score.listings},
        )

    # -- after it ----------------------------------------------------------------------

    async def _go_on(self, conversation: Conversation, early: Early, verdict: Verdict) -> None:
        options = self._options
        refuse = verdict.refuse
        if refuse is None and verdict.deep and options.deep_defer:
            refuse = UNAVAILABLE
        self._deep = Deep(options, verdict.deep if early.clean else DEEP)
        if refuse is None:
            if not verdict.deep:
                self._keep()
                self._end("pass new" if early.passes.new else "pass old")
            return
        if verdict.greet:
            await conversation.push(f"220 {options.banner}")
            await conversation.flush()
        dummy = Dummy(options, refuse, self._deep, self._means.wall, self._wanted)
        await self._hold(conversation, dummy, b"")

    async def line(self, conversation: Conversation, line: bytes) -> None:
        """Watch a client whose dialogue is still to be tested."""
        deep, now = self._deep, self._means.wall()
        if deep is None or not deep.todo or self._went_on:
            return
        rest = conversation.inbox.peek(100)
        word = line.rstrip(b"\r\n").lstrip(b" ").partition(b" ")[0]
        offences = [
            None if line.endswith(b"\r\n") else deep.bare_newline(line, now),
            deep.command(word, line, now),
            deep.more_waits(word, rest, now),
        ]
        for each in filter(None, offences):
            self._offended(each)
            if each.part is not None:
                await self._part(conversation, each.part, word.decode("ascii", "replace"))
            if each.refuse is not None:
                dummy = Dummy(self._options, each.refuse, deep, self._means.wall, self._wanted)
                dummy.secure = conversation.secure
                await self._hold(conversation, dummy, line)
        if word.upper() == b"RCPT":
            deep.recipient(now)

    async def _hold(self, conversation: Conversation, dummy: Dummy, data: bytes) -> None:
        """Speak with a client that gets nowhere, until it has had enough."""
        loop, limit = asyncio.get_running_loop(), self._options.command_time_limit
        until = loop.time() + limit
        while True:
            if not data:
                data = await conversation.heard(until)
            output = dummy.feed(data)
            self._tell(output, dummy)
            if output.reply:
                until = loop.time() + limit
                await conversation.push(output.reply.removesuffix(b"\r\n"))
                await conversation.flush()
            if output.ends:
                raise Goodbye
            if output.tls:
                await conversation.start_tls(READY_FOR_TLS)
                dummy.secured()
            data = b""

    def _tell(self, output: Output, dummy: Dummy) -> None:
        for offence in output.offences:
            self._offended(offence)
        if output.clipped:
            self._say(output.clipped, helo=dummy.helo or b"")

    def _offended(self, offence: Offence) -> None:
        action = self._options.action(offence.test)
        self._say(offence.test.value, action=action, sent=offence.sent)

    async def _part(self, conversation: Conversation, answer: Answer, command: str) -> None:
        """Turn the client away."""
        said = replace(softened(answer, self._options.soft_bounce), hangup=True)
        refused = Refused(self._connection, command, said, source="postscreen", facts=self._facts)
        await conversation.say(self._refused(refused))

    def _wanted(self, wanted: Wanted) -> Answer:
        """A recipient is refused."""
        return self._refused(
            Refused(
                self._connection,
                "RCPT",
                wanted.answer,
                wanted.helo,
                wanted.sender,
                wanted.recipient,
                "postscreen",
                self._facts,
            )
        )

    def _refused(self, refused: Refused) -> Answer:
        """Keep it, count it and log it; the answer as the client is to hear it."""
        said = replace(refused.answer, reference=self._means.note(refused))
        outcome = "rejected" if said.code >= 500 else "tempfailed"
        command = refused.verb or "CONNECT"
        self._log.info(
            "command",
            command=command,
            filter=refused.source,
            outcome=outcome,
            reason=f"{said.code} {said.enhanced} {said.text}",
            queue_id="",
            helo=refused.helo,
            sender=refused.sender,
            recipient=refused.recipient,
            reference=said.reference,
        )
        metrics.refusals(self._connection.listener, command.lower(), outcome).inc()
        return said

    # -- the end -----------------------------------------------------------------------

    def _say(self, outcome: str, **facts: object) -> None:
        if facts:
            self._facts[outcome] = facts
        self._log.info("screen", outcome=outcome, **facts)
        metrics.SCREENED.labels(self._connection.listener, outcome).inc()

    def _end(self, outcome: str) -> None:
        """The client goes on, and nobody looks at it any more."""
        self._say(outcome)
        self._count(-1)
        self._went_on = True

    def _count(self, more: int) -> None:
        if self._counted is (more > 0):
            return
        self._counted = more > 0
        here = self._gate.screening
        here[self._client] += more
        if not here[self._client]:
            del here[self._client]

    def over(self) -> None:
        """The connection has ended."""
        self._count(-1)
        early = self._early
        if early is None or self._went_on:
            return
        kept = self._keep()
        if kept is not None and not kept.todo(self._options.enabled, self._means.wall()):
            self._say("pass new" if early.passes.new else "pass old")

    def _keep(self) -> Passes | None:
        """Keep what was passed: nothing, where anything was held against the client."""
        early, deep = self._early, self._deep
        if early is None or not early.clean or (deep is not None and deep.failed):
            return None
        until = {**early.until, **(deep.until if deep is not None else {})}
        if not until:
            return None
        kept = early.passes.passed(until, self._options.enabled)
        self._means.cache.keep(self._client, kept)
        return kept
