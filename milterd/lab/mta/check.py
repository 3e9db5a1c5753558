"""The means of a check of an MTA.

A check is a function of a `Trial`.  It returns what was seen, raises `FailedError` with
what was seen instead, or `NotApplicableError`.  All three are the same in every run:
no port, no queue id, no time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from milterd.base.sockets import SocketAddress
from milterd.lab.conform.check import FailedError, NotApplicableError
from milterd.lab.mta.smtp import Client, Said, Told, connect
from milterd.lab.server import Heard, Milter, Plan, Visit
from milterd.lab.sink import Delivered, Sink

DOMAIN = b"lab.example"


class MtaError(Exception):
    """The MTA cannot be graded at all; the text says what has to be set up."""


@dataclass(frozen=True, slots=True)
class Site:
    """The MTA under test, and how it is configured.  Times are seconds.

    `accepting`: a second SMTP address of it, for which the milter's default action is
    accept.  `refused`: a recipient that the MTA refuses by itself.  `command` and
    `content` are the MTA's own limits for an answer of the milter's.  `delivery` is
    ours for a mail at the sink, `settle` how long to watch that none comes.
    """

    smtp: SocketAddress
    accepting: SocketAddress | None = None
    domain: bytes = DOMAIN
    refused: bytes | None = None
    command: float = 30.0
    content: float = 300.0
    delivery: float = 30.0
    settle: float = 2.0

    @property
    def patience(self) -> float:
        """Longer than the MTA may wait for its milter."""
        return 2 * max(self.command, self.content) + 30.0


@dataclass(slots=True)
class Session:
    """One SMTP session: our client, and what the milter's side heard."""

    trial: Trial
    client: Client
    visit: Visit
    helo: Said | None = None

    @property
    def greeted(self) -> Told:
        """The refusal at the banner or at EHLO; empty where there was none."""
        if not self.client.banner.good:
            return Told([("connect", self.client.banner)])
        return Told([("helo", self.helo)] if self.helo and not self.helo.good else [])

    @property
    def heard(self) -> Heard:
        """What the milter has been told so far."""
        return self.visit.heard

    async def send(
        self,
        message: bytes | None = None,
        recipients: Sequence[bytes] | None = None,
        **more: bytes,
    ) -> Told:
        """One transaction under this trial's name."""
        trial = self.trial
        return await self.client.send(
            trial.message() if message is None else message,
            trial.address(b"from"),
            [trial.address(b"to")] if recipients is None else recipients,
            **more,
        )

    async def quit(self) -> Heard:
        """QUIT, and wait until the MTA is through with the milter too."""
        await self.client.say(b"QUIT")
        self.client.drop()
        await self.over()
        return self.heard

    async def over(self) -> None:
        """Wait for the end of the milter's connection, if there was one."""
        if self.visit.has_arrived:
            async with asyncio.timeout(self.trial.site.patience):
                await self.visit.ended()


@dataclass(slots=True)
class Ground:
    """What all trials of a run share."""

    site: Site
    milter: Milter
    sink: Sink | None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    marks: int = 0


class Trial:
    """The means of one check, under a mark that is in all its mails."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground, self._name = ground, name
        self.site, self.milter = ground.site, ground.milter
        self.mark = b""
        self.remark()

    def remark(self) -> bytes:
        """Begin with a new mark, for a further mail that must not be taken for an earlier."""
        self._ground.marks += 1
        self.mark = b"%b.%d.lab" % (self._name.encode(), self._ground.marks)
        return self.mark

    def address(self, local: bytes) -> bytes:
        """An envelope address of this trial."""
        return b"%b.%b@%b" % (local, self.mark, self.site.domain)

    @property
    def fields(self) -> list[bytes]:
        """The header fields of the ordinary message."""
        return [
            b"Received: from elsewhere by here; Thu, 1 Jan 2026 00:00:00 +0000",
            b"X-Lab: %b" % self.mark,
            b"X-Multi: one",
            b"From: lab@example.org",
            b"x-multi: two",
            b"To: lab@example.net",
            b"Subject:  two spaces\r\n\tand a fold",
            b"X-Multi: three",
            b"Date: Thu, 1 Jan 2026 00:00:00 +0000",
            b"Message-ID: <%b@example.org>" % self.mark,
        ]

    body = b"first line\r\n.dot line\r\n\r\nlast line\r\n"

    def message(self) -> bytes:
        """The ordinary message."""
        return joined(self.fields, self.body)

    @asynccontextmanager
    async def session(
        self, plan: Plan | None = None, *, accepting: bool = False, helo: bytes | None = b""
    ) -> AsyncIterator[Session]:
        """An SMTP session after EHLO (unless `helo` is None), whose milter follows `plan`."""
        site = self.site
        if accepting and site.accepting is None:
            raise NotApplicableError("no address of the MTA where the default action is accept")
        target = site.accepting if accepting and site.accepting else site.smtp
        turn = self._ground.turn
        await turn.acquire()
        visit = self.milter.expect(plan or Plan())
        # Once the milter's side knows whose connection this is, the next may begin.
        arrived = asyncio.ensure_future(visit.arrived())
        arrived.add_done_callback(lambda _: turn.release())
        try:
            async with connect(target, site.patience) as client:
                session = Session(self, client, visit)
                client.banner = await client.answer()
                if helo is not None and client.banner.good:
                    session.helo = await client.say(b"EHLO " + (helo or self.helo))
                yield session
        finally:
            self.milter.forget(visit)
            arrived.cancel()

    @property
    def helo(self) -> bytes:
        """The HELO name."""
        return b"helo-" + self.mark.replace(b"_", b"-") + b".example"

    async def send(
        self, plan: Plan | None = None, *, accepting: bool = False
    ) -> tuple[Told, Heard]:
        """The ordinary mail in a session of its own."""
        async with self.session(plan, accepting=accepting) as session:
            greeted = session.greeted
            told = greeted if greeted.steps else await session.send()
            return told, await session.quit()

    # --- what arrives ---

    async def delivered(self, recipients: int = 1) -> list[Delivered]:
        """The mails of this mark, once they came for so many recipients."""
        sink = self._sink()
        try:
            async with asyncio.timeout(self.site.delivery):
                return await sink.wait(self.mark, recipients)
        except TimeoutError:
            found = sum(len(each.recipients) for each in sink.of(self.mark))
            raise FailedError(f"delivered to {found} of {recipients} recipients") from None

    async def delivered_once(self) -> Delivered:
        """The mail of this mark, which is to come in one piece to one recipient."""
        found = await self.delivered()
        require(len(found) == 1, f"delivered {len(found)} times")
        return found[0]

    async def nothing(self, *, needed: bool = True) -> None:
        """Fail if a mail of this mark comes; without a sink, do so if it is `needed`."""
        if self._ground.sink is None and not needed:
            return
        sink = self._sink()
        await asyncio.sleep(self.site.settle)
        if sink.of(self.mark):
            raise FailedError("the mail was delivered")

    def _sink(self) -> Sink:
        if self._ground.sink is None:
            raise NotApplicableError("no sink was given that the mail could be delivered to")
        return self._ground.sink


def joined(fields: Sequence[bytes], body: bytes) -> bytes:
    """A message of these fields and body."""
    return b"".join(each + b"\r\n" for each in fields) + b"\r\n" + body


def require(condition: object, seen: str) -> None:
    """Fail with what was seen unless the condition holds."""
    if not condition:
        raise FailedError(seen)


def sound(heard: Heard) -> None:
    """Fail if the MTA broke a rule of the protocol on this connection."""
    require(not heard.fault, f"protocol error of the MTA {heard.fault}")
