"""One mail transaction: MAIL to the last reply, for some of a mail's recipients.

By DATA, or in chunks (RFC 3030) where the message was found to be better off so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from smtpgw.delivery import commands
from smtpgw.delivery.content import outgoing
from smtpgw.delivery.dialogue import Dialogue, Stale
from smtpgw.delivery.emit import DotStuffer, LineEnds
from smtpgw.delivery.encode import Plan
from smtpgw.delivery.outcome import Deferred, Delivered, Failed, Job, Outcome, Target, clean
from smtpgw.delivery.replies import Reply
from smtpgw.delivery.wire import Lost


@dataclass(frozen=True, slots=True)
class Message:
    """A job as a peer can have it: converted by `plan` if there is one, `eight_bit` as it
    leaves, in chunks or by DATA, its lines broken after `fold` octets (0: not at all)."""

    job: Job
    plan: Plan | None
    eight_bit: bool
    chunked: bool
    fold: int

    def stuffed(self) -> Iterator[bytes]:
        """What follows DATA; the last piece ends it."""
        stuffer = DotStuffer(self.fold)
        pending = b""
        for piece in outgoing(self.job, self.plan):
            # A small message leaves in one piece, a large one as its pieces come.
            pending += stuffer.feed(piece)
            if len(pending) >= _PIECE:
                yield pending
                pending = b""
        yield pending + stuffer.finish()

    def chunks(self) -> Iterator[bytes]:
        """What BDAT carries."""
        ends = LineEnds()
        pending = b""
        for piece in outgoing(self.job, self.plan):
            pending += ends.feed(piece)
            while len(pending) >= _PIECE:
                yield pending[:_PIECE]
                pending = pending[_PIECE:]
        yield pending + ends.finish()


_PIECE = 2**16


class Transaction:
    """For some targets of a message; outcomes go to `done`.  `begun`: the peer may have got
    some of the message."""

    def __init__(
        self, peer: Dialogue, message: Message, targets: list[Target], done: dict[int, Outcome]
    ) -> None:
        self._peer, self._message, self._targets, self._done = peer, message, targets, done
        self._limits = peer.options.timeouts
        self._accepted: list[Target] = []
        self._again: list[Target] = []
        self.begun = False

    async def run(self) -> list[Target]:
        """Fill in outcomes; return who is to be tried again at once (too many at a time).

        Raises :class:`Lost` and :class:`Stale`.
        """
        data = await self._envelope()
        if not self._accepted:
            if data is not None and data.kind == 3:
                self._peer.drop()  # it waits for a message that nobody is to get (RFC 2920 3.1)
        elif self._message.chunked:
            await self._chunks()
        elif data is None or data.kind == 3:
            await self._content()
        elif data.kind == 2:  # success before there was a message means nothing
            raise Lost(f"reply out of place: {clean(data.octets)}", "4.5.0")
        else:
            self._settle_all(data)
        retry = self._again if self._accepted and self._peer.usable else []
        for each in retry:
            del self._done[each.number]
        return retry

    async def _envelope(self) -> Reply | None:
        """RSET, MAIL, RCPT and DATA; the reply to DATA if it was sent."""
        peer, limits = self._peer, self._limits
        mail, rcpts = self._lines()
        if peer.carried:
            await self._reset()
        peer.carried += 1
        batched = b"PIPELINING" in peer.offered
        data = b"" if self._message.chunked else b"DATA\r\n"
        if batched:
            await peer.wire.send(b"".join([mail, *rcpts, data]), limits.mail, "MAIL")
        reply = await self._one(b"" if batched else mail, limits.mail, "MAIL")
        if reply.kind != 2:
            for each in self._targets:
                self._settle(each, reply)
            if not batched:
                return None
        for each, line in zip(self._targets, rcpts, strict=True):
            answer = await self._one(b"" if batched else line, limits.rcpt, "RCPT")
            if reply.kind == 2:
                self._rcpt(each, answer)
        if self._message.chunked or not (batched or self._accepted):
            return None
        return await self._one(b"" if batched else data, limits.data_init, "DATA")

    def _lines(self) -> tuple[bytes, list[bytes]]:
        offered, job = self._peer.offered, self._message.job
        declared = any(each.upper() == b"BODY=8BITMIME" for each in job.sender_args)
        eight_bit = self._message.eight_bit or (declared and self._message.plan is None)
        utf8 = b"SMTPUTF8" in offered and (
            commands.needs_utf8(job) or commands.has_parameter(job.sender_args, b"SMTPUTF8")
        )
        mail = commands.mail_from(job, offered, eight_bit=eight_bit, utf8=utf8)
        return mail, [commands.rcpt_to(each, offered) for each in self._targets]

    async def _reset(self) -> None:
        """See that a kept connection lives and is in step, before anything depends on it."""
        peer = self._peer
        try:
            reply = await peer.ask(b"RSET\r\n", self._limits.rset, "RSET")
        except Lost:
            raise Stale from None
        if reply.kind != 2 or peer.wire.unread:
            raise Stale

    async def _one(self, line: bytes, limit: float, what: str) -> Reply:
        if line:
            return await self._peer.ask(line, limit, what)
        return await self._peer.next(limit, what)

    def _rcpt(self, target: Target, reply: Reply) -> None:
        if reply.kind == 2:
            self._accepted.append(target)
            return
        if reply.code in (452, 552) and (reply.enhanced or "x.5.3")[1:3] != ".2":
            self._again.append(target)  # RFC 5321 4.5.3.1.10: too many at a time
        self._settle(target, reply, rcpt=True)

    def _settle(self, target: Target, reply: Reply, *, rcpt: bool = False) -> None:
        number, remote, tls = target.number, self._peer.remote, self._peer.tls
        text = clean(reply.octets)
        if reply.kind == 2:
            offered = b"DSN" in self._peer.offered
            passed_on = offered and commands.has_parameter(target.args, b"NOTIFY")
            self._done[number] = Delivered(
                number, text, remote, reply.enhanced or "2.0.0", not offered, passed_on, tls
            )
        elif reply.kind == 4 or (rcpt and reply.code == 552):
            enhanced = f"4{(reply.enhanced or '4.0.0')[1:]}"
            self._done[number] = Deferred(number, text, remote, enhanced, True, tls=tls)
        elif reply.kind == 5:
            enhanced = reply.enhanced or "5.0.0"
            self._done[number] = Failed(number, text, remote, enhanced, True, tls)
        else:
            raise Lost(f"reply out of place: {text}", "4.5.0")

    def _settle_all(self, reply: Reply) -> None:
        for each in self._accepted:
            self._settle(each, reply)

    async def _content(self) -> None:
        """The message, the dot, and what the peer makes of it."""
        self.begun = True
        try:
            early = await self._send_content()
        except Lost:
            if not self._peer.wire.unread:
                raise
            early = True  # it spoke before it hung up
        if early:
            self._refused(await self._peer.next(1.0, "the message"))
        else:
            await self._final()

    async def _final(self) -> None:
        """What the peer makes of the whole message."""
        limit = self._limits.data_done
        if not self._peer.lmtp:
            self._settle_all(await self._peer.next(limit, "end of data"))
            return
        for each in self._accepted:  # RFC 2033 4.2: one reply for each, in RCPT order
            self._settle(each, await self._peer.next(limit, "end of data"))

    async def _send_content(self) -> bool:
        """Send it all, but for a peer that answers before the end (then True)."""
        wire, limit = self._peer.wire, self._limits.data_xfer
        pending = b""
        for piece in self._message.stuffed():
            if pending:
                await wire.send(pending, limit, "the message")
                await asyncio.sleep(0)  # others have a turn, and the peer a chance to object
            pending = piece
        if wire.unread:
            return True
        await wire.send(pending, limit, "the message")
        return False

    def _refused(self, reply: Reply) -> None:
        """A reply before the end: a refusal counts, anything else does not."""
        self._peer.drop()
        if reply.kind not in (4, 5):
            raise Lost("reply before the end of data", "4.5.0")
        self._settle_all(reply)

    async def _chunks(self) -> None:
        """The message by BDAT, each chunk with a reply of its own (RFC 3030 section 2).

        The last one waits for the replies to the others, so that the word on the message is
        one that was said after it.
        """
        peer, due, pending = self._peer, 0, None
        self._expect_silence()
        self.begun = True
        batched = b"PIPELINING" in peer.offered
        try:
            for chunk in self._message.chunks():
                if pending is not None:
                    await self._chunk(pending, b"")
                    due += 1
                    while due and (peer.wire.answered or not batched):
                        if not await self._went_well():
                            return
                        due -= 1
                pending = chunk
            while due:
                if not await self._went_well():
                    return
                due -= 1
            self._expect_silence()
            await self._chunk(pending or b"", b" LAST")
        except Lost:
            # It may have told why before it hung up.
            while peer.wire.answered:
                if not await self._went_well():
                    return
            raise
        await self._final()

    def _expect_silence(self) -> None:
        if self._peer.wire.unread:
            raise Lost("reply before the end of data", "4.5.0")

    async def _chunk(self, octets: bytes, last: bytes) -> None:
        line = b"BDAT %d%b\r\n" % (len(octets), last)
        await self._peer.wire.send(line + octets, self._limits.data_xfer, "the message")
        await asyncio.sleep(0)  # as above

    async def _went_well(self) -> bool:
        """Whether the peer took a chunk; if not, its word is that on the whole message."""
        reply = await self._peer.next(self._limits.data_done, "BDAT")
        if reply.kind == 2:
            return True
        self._refused(reply)
        return False
