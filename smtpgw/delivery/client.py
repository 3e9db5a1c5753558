"""One dialogue for LMTP and SMTP: one connection, any number of mails (RFC 5321, RFC 2033).

The peer's word counts only where it was asked for and could be understood.  When a
connection is lost, whoever has an answer keeps it and all others are deferred; a mail
may so arrive twice, never not at all.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence

from smtpgw.delivery import commands, content
from smtpgw.delivery.content import Traits
from smtpgw.delivery.dialogue import Dialogue, Stale
from smtpgw.delivery.encode import Plan
from smtpgw.delivery.message import Message
from smtpgw.delivery.outcome import Failed, Job, Outcome, clean
from smtpgw.delivery.parts import Unclear
from smtpgw.delivery.replies import Reply
from smtpgw.delivery.swift import Done, Swift
from smtpgw.delivery.transaction import Transaction
from smtpgw.delivery.wire import Lost


class Connection(Dialogue):
    """A dialogue from the greeting on, that carries mails."""

    async def greet(self) -> None:
        """Banner and EHLO, HELO or LHLO.  Raises :class:`Lost`."""
        self._expect(await self.next(self.options.timeouts.helo, "connect"), "greeting")
        await self.hello()

    async def hello(self) -> None:
        """EHLO, HELO or LHLO.  What was offered before counts no more.  Raises :class:`Lost`."""
        limit, name = self.options.timeouts.helo, self.options.helo_name.encode("ascii")
        verb = b"LHLO" if self.lmtp else b"EHLO"
        self.offered = {}
        reply = await self.ask(b"%b %b\r\n" % (verb, name), limit, verb.decode())
        if reply.kind == 5 and not self.lmtp:
            verb = b"HELO"
            reply = await self.ask(b"HELO %b\r\n" % name, limit, "HELO")
        self._expect(reply, verb.decode())
        # HELO has one line, and what stands there is talk (RFC 5321 section 4.1.1.1).
        self.offered = {} if verb == b"HELO" else commands.extensions(reply)
        self.most = commands.most_octets(self.offered)
        self.remote = commands.host_name(reply, self.remote)

    def _expect(self, reply: Reply, what: str) -> None:
        if reply.kind != 2:
            words = clean(reply.octets)
            raise Lost(f"{what} refused: {words}", f"4{(reply.enhanced or '4.3.2')[1:]}")
        if self.wire.unread:
            raise Lost(f"more than one reply to {what}", "4.5.0")

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """An outcome for each target.  Raises :class:`Stale` if nothing was tried at all."""
        found = asyncio.get_running_loop().create_future()
        swift = self.begin(job, math.inf, functools.partial(_answer, found))
        if swift is None:
            return await self._deliver(job)
        try:
            result: Sequence[Outcome] | BaseException = await found
        except asyncio.CancelledError:
            swift.cancel()
            raise
        if isinstance(result, BaseException):
            raise result
        return result

    def begin(self, job: Job, until: float, done: Done) -> Swift | None:
        """Begin a delivery that needs no task and ends by `until` (loop time), if this is one:
        see :class:`Swift`.  `done` is called later, never from here."""
        if len(job.targets) != 1 or b"PIPELINING" not in self.offered:
            return None
        octets = content.at_hand(job)
        if octets is None:
            return None
        traits = content.look_at(octets, self.options.smtp_line_length_limit)
        message = self._fit_as_it_is(job, traits)
        if not isinstance(message, Message) or message.chunked or message.fold:
            return None
        (target,) = job.targets
        if not (commands.sendable(target.address) and commands.sendable(job.sender)):
            return None
        message.octets = octets
        swift = Swift(self, message, until, done)
        swift.begin()
        return swift

    async def _deliver(self, job: Job) -> Sequence[Outcome]:
        done: dict[int, Outcome] = {}
        rest = []
        octets, limit = content.at_hand(job), self.options.smtp_line_length_limit
        if octets is not None:
            traits = content.look_at(octets, limit)
        else:
            traits = await content.examine(job, limit)
        message = await self._fit(job, traits)
        for each in job.targets:
            if not isinstance(message, Message):
                done[each.number] = Failed(each.number, message[1], self.remote, message[0])
            elif commands.sendable(each.address) and commands.sendable(job.sender):
                rest.append(each)
            else:
                text = "address cannot be sent in an SMTP command"
                done[each.number] = Failed(each.number, text, "", "5.1.3")
        first, begun = True, False
        try:
            while rest and isinstance(message, Message):
                message.octets = octets
                transaction = Transaction(self, message, rest, done, first=first)
                try:
                    rest = await transaction.run()
                finally:
                    begun = transaction.begun
                first = False
        except Stale:
            if not first:  # this very connection carried the first part: no second try from the top
                lost = Lost("connection lost between two transactions", next_host=True)
                self.defer_rest(job, done, lost)
            else:
                raise
        except Lost as error:
            self.defer_rest(job, done, Lost(error.text, error.enhanced, next_host=not begun))
        return [done[each.number] for each in job.targets]

    async def _fit(self, job: Job, traits: Traits) -> Message | tuple[str, str]:
        """The message as this peer can have it; else status and reason (RFC 1870, 6152, 6531)."""
        found = self._fit_as_it_is(job, traits)
        if found is not None:
            return found
        if self.options.disable_mime_output_conversion:
            return "5.6.3", "message is 8-bit, which the peer does not take"
        try:
            return self._message(job, traits, await content.plan(job))
        except Unclear as why:
            return "5.6.3", (
                f"message is 8-bit, which the peer does not take, and cannot be converted: {why}"
            )

    def _fit_as_it_is(self, job: Job, traits: Traits) -> Message | tuple[str, str] | None:
        """The same for a message that needs no conversion; None for one that does."""
        offered = self.offered
        if 0 < self.most < job.size:
            return "5.3.4", f"message of {job.size} octets is over the peer's limit of {self.most}"
        if commands.needs_utf8(job) and b"SMTPUTF8" not in offered:
            return "5.6.7", "message needs SMTPUTF8, which the peer does not offer"
        if traits.eight_bit and b"8BITMIME" not in offered:
            return None
        return self._message(job, traits, None)

    def _message(self, job: Job, traits: Traits, plan: Plan | None) -> Message:
        options = self.options
        awkward = plan is None and traits.awkward
        chunked = b"CHUNKING" in self.offered and (
            options.smtp_use_chunking == "always"
            or (options.smtp_use_chunking == "when needed" and awkward)
        )
        # What was converted may keep long lines in parts that must not be touched.
        fold = options.smtp_line_length_limit if traits.long_lines and not chunked else 0
        return Message(job, plan, traits.eight_bit and plan is None, chunked, fold)


def _answer(
    found: asyncio.Future[Sequence[Outcome] | BaseException],
    result: Sequence[Outcome] | BaseException,
) -> None:
    if not found.done():
        found.set_result(result)
