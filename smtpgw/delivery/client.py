"""One dialogue for LMTP and SMTP: one connection, any number of mails (RFC 5321, RFC 2033).

The peer's word counts only where it was asked for and could be understood.  When a
connection is lost, whoever has an answer keeps it and all others are deferred; a mail
may so arrive twice, never not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from milterd.core.mail import BytesBody
from smtpgw.delivery import commands
from smtpgw.delivery.emit import DotStuffer
from smtpgw.delivery.outcome import Deferred, Delivered, Failed, Job, Outcome, Target, clean
from smtpgw.delivery.replies import Reply
from smtpgw.delivery.wire import Lost, Wire


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Seconds, by Postfix's names (lmtp(8)); `myhostname` is what we call ourselves.

    lmtp_data_xfer_timeout bounds each piece sent, the queue's lease_time all of them.
    """

    myhostname: str = "localhost"
    lmtp_connect_timeout: float = 30.0
    lmtp_lhlo_timeout: float = 300.0
    lmtp_mail_timeout: float = 300.0
    lmtp_rcpt_timeout: float = 300.0
    lmtp_data_init_timeout: float = 120.0
    lmtp_data_xfer_timeout: float = 180.0
    lmtp_data_done_timeout: float = 600.0
    lmtp_rset_timeout: float = 20.0


class Stale(Exception):  # noqa: N818 - an everyday event, not an error
    """A kept connection turned out dead before it carried anything of this mail."""


class Connection:
    """A greeted connection.  `usable` says whether another mail may go this way."""

    def __init__(self, wire: Wire, options: ClientOptions, *, lmtp: bool, remote: str) -> None:
        self._wire, self._options, self._lmtp = wire, options, lmtp
        self._farewell: Reply | None = None
        self._used = False
        self._usable = True
        self.remote = remote
        self.offered: dict[bytes, bytes] = {}

    @property
    def usable(self) -> bool:
        """Open, in step, and not told to go away."""
        return self._usable and self._wire.alive and not self._wire.unread

    async def greet(self) -> None:
        """Banner and EHLO, HELO or LHLO.  Raises :class:`Lost`."""
        limit = self._options.lmtp_lhlo_timeout
        self._expect(await self._next(limit, "connect"), "greeting")
        name = self._options.myhostname.encode("ascii")
        verb = b"LHLO" if self._lmtp else b"EHLO"
        reply = await self._ask(b"%b %b\r\n" % (verb, name), limit, verb.decode())
        if reply.kind == 5 and not self._lmtp:
            reply = await self._ask(b"HELO %b\r\n" % name, limit, "HELO")
        self._expect(reply, verb.decode())
        self.offered = commands.extensions(reply)
        self.remote = commands.host_name(reply, self.remote)

    def _expect(self, reply: Reply, what: str) -> None:
        if reply.kind != 2:
            words = clean(reply.octets)
            raise Lost(f"{what} refused: {words}", f"4{(reply.enhanced or '4.3.2')[1:]}")

    async def _next(self, limit: float, what: str) -> Reply:
        """The next reply.  After 421 the peer says nothing more: it stands for all the rest."""
        if self._farewell is not None:
            return self._farewell
        reply = await self._wire.reply(limit, what)
        if reply.code == 421:
            self._farewell, self._usable = reply, False
        return reply

    async def _ask(self, line: bytes, limit: float, what: str) -> Reply:
        if self._farewell is None:
            await self._wire.send(line, limit, what)
        return await self._next(limit, what)

    async def deliver(self, job: Job) -> Sequence[Outcome]:
        """An outcome for each target.  Raises :class:`Stale` if nothing was tried at all."""
        done: dict[int, Outcome] = {}
        rest = []
        refusal = await self._refusal(job)
        for each in job.targets:
            if refusal is not None:
                done[each.number] = Failed(each.number, refusal[1], self.remote, refusal[0])
            elif commands.sendable(each.address) and commands.sendable(job.sender):
                rest.append(each)
            else:
                text = "address cannot be sent in an SMTP command"
                done[each.number] = Failed(each.number, text, "", "5.1.3")
        first = True
        try:
            while rest:
                rest = await _Transaction(self, job, rest, done).run()
                first = False
        except Stale:
            if not first:  # this very connection carried the first part: no second try from the top
                self._defer_rest(job, done, Lost("connection lost between two transactions"))
            else:
                raise
        except Lost as error:
            self._defer_rest(job, done, error)
        return [done[each.number] for each in job.targets]

    def _defer_rest(self, job: Job, done: dict[int, Outcome], why: Lost) -> None:
        self.drop()
        for each in job.targets:
            lost = Deferred(each.number, why.text, self.remote, why.enhanced)
            done.setdefault(each.number, lost)

    async def _refusal(self, job: Job) -> tuple[str, str] | None:
        """Why this peer cannot have this mail at all, if so (RFC 1870, 6152, 6531)."""
        limit = self.offered.get(b"SIZE", b"")
        if limit.isdigit() and len(limit) < 20 and 0 < int(limit) < job.size:
            return "5.3.4", f"message of {job.size} octets is over the peer's limit of {int(limit)}"
        if commands.needs_utf8(job) and b"SMTPUTF8" not in self.offered:
            return "5.6.7", "message needs SMTPUTF8, which the peer does not offer"
        if b"8BITMIME" not in self.offered and await _eight_bit(job):
            return "5.6.3", "message is 8-bit, which the peer does not take"
        return None

    def drop(self) -> None:
        """Close at once; whatever was not answered did not happen for us."""
        self._usable = False
        self._wire.abort()

    async def quit(self) -> None:
        """Say QUIT and close; the answer is not waited for."""
        if self._wire.alive:
            try:
                await self._wire.send(b"QUIT\r\n", 1.0, "QUIT")
            except Lost:
                return
            self._wire.close()


async def _eight_bit(job: Job) -> bool:
    if not job.head.isascii():
        return True
    if isinstance(job.body, BytesBody):
        return not job.body.octets.isascii()
    return await asyncio.to_thread(lambda: not all(p.isascii() for p in job.body.pieces()))


class _Transaction:
    """MAIL to the last reply after the dot, for some of the targets."""

    def __init__(
        self, peer: Connection, job: Job, targets: list[Target], done: dict[int, Outcome]
    ) -> None:
        self._peer, self._job, self._targets, self._done = peer, job, targets, done
        self._options = peer._options
        self._accepted: list[Target] = []
        self._again: list[Target] = []

    async def run(self) -> list[Target]:
        """Fill in outcomes; return who is to be tried again at once (too many at a time).

        Raises :class:`Lost` and :class:`Stale`.
        """
        data = await self._envelope()
        peer = self._peer
        if data is None or not self._accepted:
            if data is not None and data.kind == 3:
                peer.drop()  # it waits for a message that nobody is to get (RFC 2920 3.1)
        elif data.kind == 3:
            await self._content()
        elif data.kind == 2:  # success before there was a message means nothing
            raise Lost(f"reply out of place: {clean(data.octets)}", "4.5.0")
        else:
            for each in self._accepted:
                self._settle(each, data)
        retry = self._again if self._accepted and peer.usable else []
        if not retry:
            return []
        for each in retry:
            del self._done[each.number]
        return retry

    async def _envelope(self) -> Reply | None:
        """RSET, MAIL, RCPT and DATA; the reply to DATA if it was sent."""
        peer, options = self._peer, self._options
        declared = any(each.upper() == b"BODY=8BITMIME" for each in self._job.sender_args)
        eight_bit = declared or await _eight_bit(self._job)
        utf8 = b"SMTPUTF8" in peer.offered and (
            commands.needs_utf8(self._job)
            or commands.has_parameter(self._job.sender_args, b"SMTPUTF8")
        )
        mail = commands.mail_from(self._job, peer.offered, eight_bit=eight_bit, utf8=utf8)
        rcpts = [commands.rcpt_to(each, peer.offered) for each in self._targets]
        if peer._used:
            await self._reset()
        peer._used = True
        batched = b"PIPELINING" in peer.offered
        if batched:
            lines = b"".join([mail, *rcpts, b"DATA\r\n"])
            await peer._wire.send(lines, options.lmtp_mail_timeout, "MAIL")
        reply = await self._one(b"" if batched else mail, options.lmtp_mail_timeout, "MAIL")
        if reply.kind != 2:
            for each in self._targets:
                self._settle(each, reply)
            if not batched:
                return None
        for each, line in zip(self._targets, rcpts, strict=True):
            answer = await self._one(b"" if batched else line, options.lmtp_rcpt_timeout, "RCPT")
            if reply.kind == 2:
                self._rcpt(each, answer)
        if not batched and not self._accepted:
            return None
        return await self._one(
            b"" if batched else b"DATA\r\n", options.lmtp_data_init_timeout, "DATA"
        )

    async def _reset(self) -> None:
        """See that a kept connection lives and is in step, before anything depends on it."""
        peer = self._peer
        try:
            reply = await peer._ask(b"RSET\r\n", self._options.lmtp_rset_timeout, "RSET")
        except Lost:
            raise Stale from None
        if reply.kind != 2 or peer._wire.unread:
            raise Stale

    async def _one(self, line: bytes, limit: float, what: str) -> Reply:
        if line:
            return await self._peer._ask(line, limit, what)
        return await self._peer._next(limit, what)

    def _rcpt(self, target: Target, reply: Reply) -> None:
        if reply.kind == 2:
            self._accepted.append(target)
            return
        if reply.code in (452, 552) and (reply.enhanced or "x.5.3")[1:3] != ".2":
            self._again.append(target)  # RFC 5321 4.5.3.1.10: too many at a time
        self._settle(target, reply, rcpt=True)

    def _settle(self, target: Target, reply: Reply, *, rcpt: bool = False) -> None:
        number, remote = target.number, self._peer.remote
        text = clean(reply.octets)
        if reply.kind == 2:
            offered = b"DSN" in self._peer.offered
            passed_on = offered and commands.has_parameter(target.args, b"NOTIFY")
            self._done[number] = Delivered(
                number, text, remote, reply.enhanced or "2.0.0", not offered, passed_on
            )
        elif reply.kind == 4 or (rcpt and reply.code == 552):
            enhanced = f"4{(reply.enhanced or '4.0.0')[1:]}"
            self._done[number] = Deferred(number, text, remote, enhanced, True)
        elif reply.kind == 5:
            self._done[number] = Failed(number, text, remote, reply.enhanced or "5.0.0", True)
        else:
            raise Lost(f"reply out of place: {text}", "4.5.0")

    async def _content(self) -> None:
        """The message, the dot, and what the peer makes of it."""
        peer = self._peer
        try:
            early = await self._send_content()
        except Lost:
            if not peer._wire.unread:
                raise
            early = True  # it spoke before it hung up
        if early:
            await self._early()
            return
        limit = self._options.lmtp_data_done_timeout
        if not peer._lmtp:
            reply = await peer._next(limit, "end of data")
            for each in self._accepted:
                self._settle(each, reply)
            return
        for each in self._accepted:  # RFC 2033 4.2: one reply for each, in RCPT order
            self._settle(each, await peer._next(limit, "end of data"))

    async def _send_content(self) -> bool:
        """Send it all, but for a peer that answers before the end (then True)."""
        wire, limit = self._peer._wire, self._options.lmtp_data_xfer_timeout
        stuffer = DotStuffer()
        pending = stuffer.feed(self._job.head)
        for piece in self._job.body.pieces():
            await wire.send(pending, limit, "the message")
            pending = stuffer.feed(piece)
        if wire.unread:
            return True
        await wire.send(pending + stuffer.finish(), limit, "the message")
        return False

    async def _early(self) -> None:
        """A reply before the dot: a refusal counts, anything else does not."""
        reply = await self._peer._next(1.0, "the message")
        self._peer.drop()
        if reply.kind not in (4, 5):
            raise Lost("reply before the end of data", "4.5.0")
        for each in self._accepted:
            self._settle(each, reply)
