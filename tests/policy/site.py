"""A policy made of settings, asked without a gateway round it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from milterd.base import logs
from milterd.core.mail import Client, Family
from smtpgw import config
from smtpgw.addresses import open_addresses
from smtpgw.dns.answers import Family as Kind
from smtpgw.dns.answers import Found, Mx, NoName, TryAgain
from smtpgw.edge.names import NameStatus, PeerName
from smtpgw.policy.engine import Policy, Review
from smtpgw.policy.facts import Facts, State
from smtpgw.policy.ports import Ports
from smtpgw.policy.record import Decision

STRANGER = Facts(
    Client(b"mail.good.example", Family.INET, b"192.0.2.77", 4711),
    PeerName(b"mail.good.example", b"mail.good.example", NameStatus.OK, NameStatus.OK),
    State.RCPT,
    helo=b"mail.good.example",
    esmtp=True,
    sender=b"s@good.example",
    recipient=b"u@local.example",
    session="s1",
    queue_id="q1",
    instance="s1.q1",
)
OPEN = (
    'smtpd_relay_restrictions = ["permit_mynetworks", "permit_sasl_authenticated", '
    '"permit_auth_destination", "reject"]\n'
)


def settings(text: str = "", define: str = "") -> config.Smtpgw:
    """Settings of a gateway for local.example, in which 192.0.2.0/28 is trusted."""
    return config.parse(
        f"""
[smtpgw]
myhostname = "gw.example.net"
mydestination = ["local.example"]
mynetworks = ["192.0.2.0/28"]
relay_domains = ["relay.example"]
recipient_delimiter = "+"
local_recipient_maps = []
{text}
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:2525"
[smtpgw.define]
{define}
"""
    ).smtpgw


def policy(text: str = "", define: str = "") -> Policy:
    """The policy of these settings."""
    return open_addresses(settings(text, define), logs.get("test")).policies["mx", False]


@dataclass
class Names:
    """A resolver that knows some names; `broken` ones are not known now."""

    a: dict[str, list[str]] = field(default_factory=dict)
    records: dict[tuple[str, str], object] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def _answer(self, kind: str, name: str) -> object:
        self.asked.append((kind, name))
        if name in self.broken:
            return TryAgain("SERVFAIL")
        found = self.records.get((kind, name))
        return NoName("no such name") if found is None else Found(tuple(found))  # type: ignore[arg-type]

    async def mx(self, name: str, _limit: float) -> object:
        return self._answer("MX", name)

    async def address(self, name: str, family: Kind, _limit: float) -> object:
        return self._answer(family.value, name)

    async def ptr(self, address: object, _limit: float) -> object:
        return self._answer("PTR", str(address))

    async def txt(self, name: str, _limit: float) -> object:
        return self._answer("TXT", name)

    async def ns(self, name: str, _limit: float) -> object:
        return self._answer("NS", name)

    async def close(self) -> None:
        """Nothing is open."""


def exchanger(preference: int, host: str) -> Mx:
    return Mx(preference, host)


def run(work: Awaitable[Decision]) -> Decision:
    async def all_of_it() -> Decision:
        return await work

    return asyncio.run(all_of_it())


def asked(
    text: str = "",
    facts: Facts = STRANGER,
    *,
    define: str = "",
    ports: Ports | None = None,
    step: Callable[[Review, Facts], Awaitable[Decision]] = Review.rcpt,
) -> str:
    """What RCPT is answered: `code status text`, or nothing."""
    decision, _ = judged(text, facts, define=define, ports=ports, step=step)
    return "" if decision.reply is None else str(decision.reply)


def judged(
    text: str = "",
    facts: Facts = STRANGER,
    *,
    define: str = "",
    ports: Ports | None = None,
    step: Callable[[Review, Facts], Awaitable[Decision]] = Review.rcpt,
) -> tuple[Decision, Review]:
    """The decision, and the review that made it."""
    review = Review(policy(text, define), ports or Ports())
    return run(step(review, facts)), review


def named(facts: Facts = STRANGER, **changes: object) -> Facts:
    """The facts with others in their place."""
    return replace(facts, **changes)  # type: ignore[arg-type]
