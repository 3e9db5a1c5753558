"""Address probes: a delivery's dialogue up to RCPT, then RSET and QUIT, never DATA (verify(8)).

Hosts, TLS and passwords are those of a delivery; connections are not kept.  `text` of an outcome
says which host said what to which command.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.delivery import commands
from smtpgw.delivery.client import Connection
from smtpgw.delivery.connect import Connector
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import PoolOptions
from smtpgw.delivery.outcome import (
    Deferred,
    Delivered,
    Destination,
    Failed,
    Job,
    Outcome,
    Target,
    clean,
)
from smtpgw.delivery.pool import hop_of
from smtpgw.delivery.replies import Reply
from smtpgw.delivery.wire import Lost


class ProbeCarrier:
    """A :class:`~smtpgw.delivery.smtp.Carrier`, and a Deliverer for `lmtp`, that delivers nothing.

    Raises ValueError for options that cannot be understood.
    """

    def __init__(self, options: PoolOptions) -> None:
        self._connector = Connector(options)

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        """From the one host that the nexthop names."""
        try:
            return await self.deliver_to(hop_of(destination), job)
        except Lost as error:
            return [
                Deferred(each.number, error.text, "", error.enhanced, unreachable=True)
                for each in job.targets
            ]

    async def deliver_to(self, hop: Hop, job: Job) -> Sequence[Outcome]:
        """What this host says of each target.  Raises :class:`Lost`."""
        addresses = job.sender, *(each.address for each in job.targets)
        if not all(map(commands.sendable, addresses)):
            text = "address cannot be sent in an SMTP command"
            return [Failed(each.number, text, "", "5.1.3") for each in job.targets]
        way = self._connector.way(hop)
        connection = await self._connector.open(way, again=False)
        try:
            return await _Probe(connection, hop, job).run()
        except Lost as error:
            # Nothing is lost but the answer: another host may have it.
            error.next_host = True
            raise
        finally:
            await connection.quit()

    async def close(self) -> None:
        """Nothing is kept."""


class _Probe:
    """MAIL, RCPT and RSET on one connection."""

    def __init__(self, peer: Connection, hop: Hop, job: Job) -> None:
        self._peer, self._hop, self._job = peer, hop, job
        self._limits = peer.options.timeouts

    async def run(self) -> list[Outcome]:
        peer, job, limits = self._peer, self._job, self._limits
        utf8 = commands.needs_utf8(job)
        if utf8 and b"SMTPUTF8" not in peer.offered:
            text = "address needs SMTPUTF8, which the peer does not offer"
            return [Failed(each.number, text, "", "5.6.7") for each in job.targets]
        mail = commands.mail_from(job, peer.offered, eight_bit=False, utf8=utf8)
        rcpts = [commands.rcpt_to(each, peer.offered) for each in job.targets]
        batched = b"PIPELINING" in peer.offered
        if batched:
            await peer.wire.send(b"".join([mail, *rcpts, b"RSET\r\n"]), limits.mail, "MAIL")
        answer = await self._one(b"" if batched else mail, limits.mail, "MAIL")
        if answer.kind != 2 and not batched:
            return [self._outcome(each, answer, "MAIL FROM") for each in job.targets]
        found = []
        for each, line in zip(job.targets, rcpts, strict=True):
            reply = await self._one(b"" if batched else line, limits.rcpt, "RCPT")
            refused = answer.kind != 2
            said, command = (answer, "MAIL FROM") if refused else (reply, "RCPT TO")
            found.append(self._outcome(each, said, command))
        await self._reset(batched=batched)
        return found

    async def _reset(self, *, batched: bool) -> None:
        """The answers are known: whatever comes of it changes nothing."""
        try:
            await self._one(b"" if batched else b"RSET\r\n", self._limits.rset, "RSET")
        except Lost:
            self._peer.drop()

    async def _one(self, line: bytes, limit: float, what: str) -> Reply:
        if line:
            return await self._peer.ask(line, limit, what)
        return await self._peer.next(limit, what)

    def _outcome(self, target: Target, reply: Reply, command: str) -> Outcome:
        number, tls, words = target.number, self._peer.tls, clean(reply.octets)
        if reply.kind == 2:
            return Delivered(number, words, self._peer.remote, reply.enhanced or "2.0.0", tls=tls)
        if reply.kind not in (4, 5):
            raise Lost(f"reply out of place: {words}", "4.5.0")
        where = self._hop.address if self._hop.local else f"{self._hop.host}[{self._hop.address}]"
        text = clean(f"host {where} said: {words} (in reply to {command} command)")
        enhanced = f"{reply.kind}{(reply.enhanced or 'x.0.0')[1:]}"
        if reply.kind == 4:
            return Deferred(number, text, "", enhanced, True, tls=tls)
        return Failed(number, text, "", enhanced, True, tls)


class MaildirProbe:
    """A Deliverer for `maildir`: everybody has one there, once mail comes."""

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        text = f"delivers to maildir below {destination.nexthop}"
        return [Delivered(each.number, text) for each in job.targets]

    async def close(self) -> None:
        """Nothing is kept."""
