"""Commands and replies on one connection, and what both sides know of each other."""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.delivery.options import ClientOptions
from smtpgw.delivery.outcome import Deferred, Job, Outcome
from smtpgw.delivery.replies import Reply
from smtpgw.delivery.wire import Lost, Wait, Wire


class Stale(Exception):  # noqa: N818 - an everyday event, not an error
    """A kept connection turned out dead before it carried anything of this mail."""


class Dialogue:
    """A connection to a peer.  `offered` is what its last EHLO or LHLO reply offers, `most` the
    octets of a message that it takes by that, 0 where it says none; `remote` its name, `tls` the
    encryption in words, '' for none; `carried` counts mails; `open` says that the last one's
    transaction may not be over for the peer; `dues` are waits for the answers to an envelope, as
    :class:`~smtpgw.delivery.transaction.Transaction` keeps them."""

    def __init__(self, wire: Wire, options: ClientOptions, *, lmtp: bool, remote: str) -> None:
        self.wire, self.options, self.lmtp = wire, options, lmtp
        self.remote, self.tls = remote, ""
        self.offered: dict[bytes, bytes] = {}
        self.most = 0
        self.carried = 0
        self.open = False
        self.dues: dict[tuple[bool, bool, bool], Sequence[Wait]] = {}
        self._farewell: Reply | None = None
        self._usable = True

    @property
    def usable(self) -> bool:
        """Open, in step, and not told to go away."""
        return self._usable and self.wire.quiet

    async def next(self, limit: float, what: str) -> Reply:
        """The next reply.  After 421 the peer says nothing more: it stands for all the rest.

        Raises :class:`Lost`.
        """
        if self._farewell is None:
            await self.wire.arrival(((limit, what),))
        return self.taken(what)

    def taken(self, what: str) -> Reply:
        """The same of a reply that came, or never will."""
        if self._farewell is not None:
            return self._farewell
        replies = self.wire.replies
        reply = replies.pop(0) if replies else self.wire.taken(what)
        if reply.code == 421:
            self._farewell, self._usable = reply, False
        return reply

    async def several(self, due: Sequence[Wait]) -> None:
        """Wait until so many replies can be taken, or no more will come."""
        if self._farewell is None:
            await self.wire.arrival(due)

    async def ask(self, line: bytes, limit: float, what: str) -> Reply:
        """The reply to a command.  Raises :class:`Lost`."""
        if self._farewell is None:
            await self.wire.send(line, limit, what)
        return await self.next(limit, what)

    def defer_rest(self, job: Job, done: dict[int, Outcome], why: Lost) -> None:
        """Hang up; whoever has no outcome is deferred."""
        self.drop()
        for each in job.targets:
            lost = Deferred(
                each.number,
                why.text,
                self.remote,
                why.enhanced,
                tls=self.tls,
                next_host=why.next_host,
            )
            done.setdefault(each.number, lost)

    def drop(self) -> None:
        """Close at once; whatever was not answered did not happen for us."""
        self._usable = False
        self.wire.abort()

    async def quit(self) -> None:
        """Say QUIT and close; the answer is not waited for (smtp_skip_quit_response)."""
        if self.wire.alive:
            limit = self.options.timeouts.quit
            try:
                await self.wire.send(b"QUIT\r\n", min(limit, 1.0), "QUIT")
            except Lost:
                return
            self.wire.close(limit)
