"""What a client would be told, found out without it: the work of `smtpgw explain`.

The session of the running gateway, its restriction lists, tables and names, is given the client's
commands one after the other; only what lies behind is missing: no milter is asked, nothing is
counted, nothing is queued.  So nothing can be explained otherwise than it happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from structlog.typing import FilteringBoundLogger

from milterd.core.mail import Client, Family
from smtpgw import wiring
from smtpgw.addresses import Addresses
from smtpgw.chain.health import Health
from smtpgw.client_name import ClientNames, named
from smtpgw.config import Listener, Smtpgw
from smtpgw.decisions.decision import Decision
from smtpgw.dns.answers import Resolver
from smtpgw.dns.hosts_file import HostsFile
from smtpgw.edge.names import NameStatus, PeerName
from smtpgw.edge.road import Answer, Connection, Login, Tls
from smtpgw.edge.session import Session
from smtpgw.intake import Intake
from smtpgw.plan import Means
from smtpgw.policy.ports import Ports
from smtpgw.recording import Decided, Recorder
from smtpgw.road import GatewaySession

PRETENDED = Tls("TLSv1.3", "as if", 256)
"""What is said to be on where a listener wants TLS."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A client and what it would say.  Without `client_name` the name is looked up; `login` is who
    has logged in; `tls` says that it speaks TLS, as it does wherever it must."""

    client: str
    helo: str
    sender: str
    recipients: tuple[str, ...]
    client_name: str = ""
    login: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """A command, what the client hears, and all that was asked for it.  `rule` is the restriction
    that refused, or what else did; empty where nothing has."""

    command: str
    code: int
    enhanced: str
    text: str
    rule: str
    seconds: float
    steps: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """All of it; `client_name` as the gateway knows it, and why it is `unknown` if it is."""

    listener: str
    client: str
    client_name: str
    reason: str
    heard: tuple[Heard, ...]


class _Unqueued(Intake):
    """The door into a queue that is not there: before a message, only its ids are needed."""

    def __init__(self) -> None:
        """Without the store that an Intake has: what follows needs none."""

    def new_id(self) -> str:
        return "explained"

    def check(self, size: int = 0) -> None:
        """There is room."""

    def expect(self, _who: object) -> None:
        """Nothing waits for it."""

    def expect_no_more(self, _who: object) -> None:
        """Nothing did."""


class _Last:
    """Keeps the last decision, as the store of the gateway would."""

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.kept = 1

    def note(self, make: Callable[[], Decided]) -> None:
        self.decision = make().decision()

    def close(self) -> None:
        """Nothing is open."""


class Explainer:
    """Asks, for one set of settings and one of its listeners."""

    def __init__(
        self,
        settings: Smtpgw,
        listener: Listener,
        addresses: Addresses,
        resolver: Resolver,
        ports: Ports,
        log: FilteringBoundLogger,
    ) -> None:
        self._listener, self._log = listener, log
        # Milters see mail, not questions.
        self._plan = replace(wiring.plan(settings, listener, addresses), milters=())
        self._options = wiring.edge(settings, listener, addresses.doors[listener.name])
        self._names = ClientNames(resolver, HostsFile(), settings.dns.mail_timeout, time.monotonic)
        self._ports = ports

    async def explain(self, asked: Asked) -> Explained:
        """What the client hears.  Raises ValueError for an address that is none."""
        last = _Last()
        means = Means(
            intake=_Unqueued(),
            health=Health(time.monotonic),
            log=self._log,
            wall=time.time,
            clock=time.monotonic,
            names=self._names,
            recorder=Recorder(last, time.time),
            ports=self._ports,
        )
        connection = _connection(asked, self._listener.name)
        plan = self._plan
        if asked.client_name:
            plan = replace(plan, peername_lookup=False)
            name = asked.client_name.encode()
            connection = named(connection, PeerName(name, name, NameStatus.OK, NameStatus.OK))
        road = GatewaySession(means, plan, connection)
        session = Session(
            road,
            self._options,
            spawn=_spawn,
            new_trace=lambda: "explained",
            log=self._log,
            connection=connection,
        )
        try:
            dialogue = _Dialogue(session, road, last, soft=self._options.soft_bounce)
            heard = await dialogue.held(asked, self._options.tls_required)
        finally:
            await session.close()
        peer = road.peer
        return Explained(
            self._listener.name,
            asked.client,
            peer.name.decode("utf-8", "replace"),
            peer.reason,
            tuple(heard),
        )


class _Dialogue:
    """The commands, up to the one that ends it."""

    def __init__(self, session: Session, road: GatewaySession, last: _Last, *, soft: bool) -> None:
        self._session, self._road, self._last, self._soft = session, road, last, soft
        self._heard: list[Heard] = []
        self._over = False

    async def held(self, asked: Asked, tls_required: bool) -> Sequence[Heard]:
        """What is heard."""
        session = self._session
        if not await self._say("connect", session.connect()):
            return self._heard
        if asked.tls or tls_required:
            await session.secured(PRETENDED)
        helo = asked.helo.encode()
        if not await self._say(f"EHLO {asked.helo}", session.hello(helo, esmtp=True)):
            return self._heard
        if asked.login:
            await session.logged_in(Login(asked.login.encode()))
        said = (asked.sender, *asked.recipients)
        utf8 = "" if all(each.isascii() for each in said) else " SMTPUTF8"
        argument = f"FROM:<{asked.sender}>{utf8}"
        if not await self._say(f"MAIL {argument}", session.mail(argument.encode())):
            return self._heard
        taken = False
        for each in asked.recipients:
            argument = f"TO:<{each}>"
            taken |= await self._say(f"RCPT {argument}", session.rcpt(argument.encode()))
            if self._over:
                return self._heard
        if taken:
            await self._say("DATA", session.data())
        return self._heard

    async def _say(self, command: str, step: Coroutine[Any, Any, Answer]) -> bool:
        """Whether it was granted."""
        self._last.decision = None
        began = time.monotonic()
        answer = await step
        if self._soft:
            answer = answer.softened()
        seconds = time.monotonic() - began
        steps, decision = tuple(self._road.asked()), self._last.decision
        rule = decision.source if decision else ("" if answer.positive else "edge")
        said = Heard(command, answer.code, answer.enhanced, answer.text, rule, seconds, steps)
        self._heard.append(said)
        self._over = answer.hangup or answer.code == 421
        return answer.positive


def _connection(asked: Asked, listener: str) -> Connection:
    address = ip_address(asked.client)
    family = Family.INET6 if address.version == 6 else Family.INET
    client = Client(name=b"unknown", family=family, address=str(address).encode(), port=1)
    return Connection(listener, client, session="explain")


def _spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)
