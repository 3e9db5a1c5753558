"""One mail transaction: MAIL to the last reply, for some of a mail's recipients.

By DATA, or in chunks (RFC 3030) where the message was found to be better off so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from smtpgw.delivery import commands
from smtpgw.delivery.dialogue import Dialogue, Stale
from smtpgw.delivery.message import Message
from smtpgw.delivery.outcome import Deferred, Delivered, Failed, Outcome, Target
from smtpgw.delivery.replies import Reply
from smtpgw.delivery.wire import Lost, Wait

_USUAL = 3
"""Replies to MAIL, one RCPT and DATA."""
_END = "end of data"


class Transaction:
    """For some targets of a message; outcomes go to `done`.  `first`: none was begun for this
    message before.  `accepted` are those for whom the peer wants the message; `begun`: it may have
    got some of it."""

    def __init__(
        self,
        peer: Dialogue,
        message: Message,
        targets: list[Target],
        done: dict[int, Outcome],
        *,
        first: bool,
    ) -> None:
        self._peer, self._message, self._targets, self._done = peer, message, targets, done
        self._alone = len(targets) == 1
        self._kept = first and peer.carried > 0
        self._limits = peer.options.timeouts
        self.accepted: list[Target] = []
        self._again: list[Target] = []
        self.begun = False

    async def run(self) -> list[Target]:
        """Fill in outcomes; return who is to be tried again at once (too many at a time).

        Raises :class:`Lost` and :class:`Stale`.
        """
        batched = b"PIPELINING" in self._peer.offered
        return await self.go_on(await (self._batch() if batched else self._envelope()))

    async def go_on(self, data: Reply | None) -> list[Target]:
        """The same from the envelope's answers on, `data` that to DATA if it was sent."""
        if not self.accepted:
            if data is not None and data.kind == 3:
                self._peer.drop()  # it waits for a message that nobody is to get (RFC 2920 3.1)
        elif self._message.chunked:
            await self._chunks()
        elif data is None or data.kind == 3:
            await self._content()
        elif data.kind == 2:  # success before there was a message means nothing
            raise Lost(f"reply out of place: {data.words}", "4.5.0")
        else:
            self._settle_all(data)
        retry = self._again if self.accepted and self._peer.usable else []
        for each in retry:
            del self._done[each.number]
        return retry

    async def _envelope(self) -> Reply | None:
        """RSET, MAIL, RCPT and DATA one after the other; the reply to DATA if it was sent."""
        peer, limits = self._peer, self._limits
        mail, rcpts = self._lines()
        if peer.carried:
            await self._reset()
        peer.carried, peer.open = peer.carried + 1, True
        reply = await peer.ask(mail, limits.mail, "MAIL")
        if reply.kind != 2:
            self._refused_sender(reply)
            return None
        for each, line in zip(self._targets, rcpts.splitlines(keepends=True), strict=True):
            self._rcpt(each, await peer.ask(line, limits.rcpt, "RCPT"))
        if self._message.chunked or not self.accepted:
            return None
        return await peer.ask(b"DATA\r\n", limits.data_init, "DATA")

    async def _batch(self) -> Reply | None:
        """The same in one write."""
        octets, due = self.batch()
        try:
            await self._peer.wire.send(octets, due[0][0], due[0][1])
        except Lost:
            if self._kept:
                raise Stale from None
            raise
        await self._peer.several(due)
        return self.answers(due)

    def batch(self) -> tuple[bytes, Sequence[Wait]]:
        """The whole envelope and DATA (RFC 2920 section 3.1), with RSET only if the last
        transaction may not be over; and the replies that are due."""
        mail, rcpts = self._lines()
        if self._peer.open:
            mail = b"RSET\r\n" + mail
        data = b"" if self._message.chunked else b"DATA\r\n"
        return b"%b%b%b" % (mail, rcpts, data), self._due()

    def answers(self, due: Sequence[Wait]) -> Reply | None:
        """Take what is said to a batch; the reply to DATA if it was sent.

        A kept connection that is dead, or out of step, shows by the first reply, or by a DATA
        that comes to nothing: no message was sent yet, so another connection may have it.
        Raises :class:`Lost` and :class:`Stale`.
        """
        peer = self._peer
        if self._alone and (usual := self._usual_answers()) is not None:
            return usual
        try:
            reply = peer.taken(due[0][1])
            if peer.open and reply.kind == 2:
                reply = peer.taken("MAIL")
        except Lost:
            if self._kept:
                raise Stale from None
            raise
        if self._kept and reply.kind != 2:
            raise Stale
        peer.carried, peer.open = peer.carried + 1, True
        return self._answers(reply)

    def _usual_answers(self) -> Reply | None:
        """The reply to DATA, if a peer says to a batch for one recipient what it mostly says: yes
        to him, that it waits for the message, and nothing else."""
        peer, replies = self._peer, self._peer.wire.replies
        if peer.open or self._message.chunked or len(replies) != _USUAL:
            return None
        mail, rcpt, data = replies
        if not mail.kind == rcpt.kind == 2 or data.kind != 3:
            return None
        replies.clear()
        peer.carried, peer.open = peer.carried + 1, True
        self.accepted += self._targets
        return data

    def _due(self) -> Sequence[Wait]:
        """The replies to a batch; for one recipient they are the same from mail to mail."""
        peer = self._peer
        key = self._kept, peer.open, self._message.chunked
        due = peer.dues.get(key) if self._alone else None
        if due is None:
            due = self._new_due(len(self._targets))
            if self._alone:
                peer.dues[key] = due
        return due

    def _new_due(self, count: int) -> Sequence[Wait]:
        """On a kept connection MAIL may take as long as RSET, by which the peer would be asked
        otherwise whether it is there."""
        limits = self._limits
        mail = min(limits.mail, limits.rset) if self._kept else limits.mail
        due = [(mail, "MAIL"), *[(limits.rcpt, "RCPT")] * count]
        if self._peer.open:
            due.insert(0, (limits.rset, "RSET"))
        if not self._message.chunked:
            due.append((limits.data_init, "DATA"))
        return due

    def _answers(self, reply: Reply) -> Reply | None:
        """Take what is said to a batch, `reply` to its MAIL; return what is said to its DATA."""
        if reply.kind != 2:
            self._refused_sender(reply)
        for each in self._targets:
            answer = self._peer.taken("RCPT")
            if reply.kind == 2:
                self._rcpt(each, answer)
        if self._message.chunked:
            return None
        data = self._peer.taken("DATA")
        if self._kept and data.kind == 2:
            raise Stale
        return data

    def _refused_sender(self, reply: Reply) -> None:
        for each in self._targets:
            self._settle(each, reply)

    def _lines(self) -> tuple[bytes, bytes]:
        """MAIL, and every RCPT."""
        offered, message = self._peer.offered, self._message
        job = message.job
        args, eight_bit = job.sender_args, message.eight_bit
        if args and not eight_bit:
            eight_bit = message.plan is None and commands.declared_8bit(args)
        utf8 = b"SMTPUTF8" in offered and (
            commands.needs_utf8(job) or commands.has_parameter(args, b"SMTPUTF8")
        )
        mail = commands.mail_from(job, offered, eight_bit=eight_bit, utf8=utf8)
        if self._alone:
            return mail, commands.rcpt_to(self._targets[0], offered)
        return mail, b"".join([commands.rcpt_to(each, offered) for each in self._targets])

    async def _reset(self) -> None:
        """See that a kept connection lives and is in step, before anything depends on it."""
        peer = self._peer
        try:
            reply = await peer.ask(b"RSET\r\n", self._limits.rset, "RSET")
        except Lost:
            raise Stale from None
        if reply.kind != 2 or peer.wire.unread:
            raise Stale

    def _rcpt(self, target: Target, reply: Reply) -> None:
        if reply.kind == 2:
            self.accepted.append(target)
            return
        if reply.code in (452, 552) and (reply.enhanced or "x.5.3")[1:3] != ".2":
            self._again.append(target)  # RFC 5321 4.5.3.1.10: too many at a time
        self._settle(target, reply, rcpt=True)

    def _settle(self, target: Target, reply: Reply, *, rcpt: bool = False) -> None:
        number, remote, tls = target.number, self._peer.remote, self._peer.tls
        text = reply.words
        if reply.kind == 2:
            offered = b"DSN" in self._peer.offered
            args = target.args if offered else ()
            passed_on = bool(args) and commands.has_parameter(args, b"NOTIFY")
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
        for each in self.accepted:
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
        await self._peer.several(self.last_due())
        self.final()

    def last_due(self) -> list[Wait]:
        """The replies to the message: RFC 2033 4.2 has one for each recipient."""
        count = len(self.accepted) if self._peer.lmtp and not self._alone else 1
        return [(self._limits.data_done, _END)] * count

    def final(self) -> None:
        """Take them, in the order of the RCPTs.  Raises :class:`Lost`."""
        peer = self._peer
        if not peer.lmtp:
            self._settle_all(peer.taken(_END))
        else:
            for each in self.accepted:
                self._settle(each, peer.taken(_END))
        peer.open = False

    def post(self) -> bool:
        """Send the whole of a small message; whether the peer reads.  Raises :class:`Lost`."""
        self.begun = True
        wire = self._peer.wire
        wire.post(self._message.whole() or b"")
        return wire.writable

    async def posted(self) -> None:
        """What comes after that, where it does not read at once."""
        await self._peer.wire.drain(self._limits.data_xfer, "the message")
        await self._final()

    async def _send_content(self) -> bool:
        """Send it all, but for a peer that answers before the end (then True)."""
        wire, limit = self._peer.wire, self._limits.data_xfer
        whole = self._message.whole()
        if whole is not None and not wire.unread:
            await wire.send(whole, limit, "the message")
            return False
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
