"""A road whose refusals carry smtpd_reject_footer, whoever refuses: restrictions, milters,
limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from milterd.core.mail import Envelope
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import Path
from smtpgw.edge.content import Content
from smtpgw.edge.road import Answer, Attempt, Connection, Hello, Login, SessionRoad
from smtpgw.policy.engine import Policy
from smtpgw.policy.facts import Facts
from smtpgw.policy.footer import footed
from smtpgw.policy.ports import Ports

A = TypeVar("A", Answer, Answer | None)


def has_footer(policy: Policy) -> bool:
    """Whether there is anything to say."""
    return bool(policy.options.smtpd_reject_footer or policy.site.smtpd_reject_footer_maps)


@dataclass(frozen=True, slots=True)
class FootedRoad:
    """A :class:`~smtpgw.edge.road.SessionRoad` round another one; `facts` are those of now."""

    inner: SessionRoad
    policy: Policy
    ports: Ports
    facts: Callable[[], Facts]

    async def _foot(self, answer: A) -> A:
        if answer is None or answer.code < 400:
            return answer
        return await footed(self.policy, self.ports, self.facts(), answer)

    async def attempt(self, what: Attempt) -> Answer | None:
        return await self._foot(await self.inner.attempt(what))

    async def connect(self) -> Answer | None:
        return await self._foot(await self.inner.connect())

    async def helo(self, hello: Hello) -> Answer | None:
        return await self._foot(await self.inner.helo(hello))

    async def login(self, login: Login | None) -> Answer | None:
        return await self._foot(await self.inner.login(login))

    async def readmit(self, connection: Connection, login: Login | None) -> Answer | None:
        return await self._foot(await self.inner.readmit(connection, login))

    async def forwarded(self, facts: Mapping[str, bytes]) -> Answer | None:
        return await self._foot(await self.inner.forwarded(facts))

    async def mail(self, sender: Path, params: MailParams) -> Answer | None:
        return await self._foot(await self.inner.mail(sender, params))

    async def rcpt(self, recipient: Path, params: RcptParams) -> Answer | None:
        return await self._foot(await self.inner.rcpt(recipient, params))

    async def data(self) -> Answer | None:
        return await self._foot(await self.inner.data())

    async def message(self, envelope: Envelope, content: Content) -> Answer:
        return await self._foot(await self.inner.message(envelope, content))

    async def etrn(self, node: str, *, below: bool) -> Answer | None:
        return await self._foot(await self.inner.etrn(node, below=below))

    async def vrfy(self, recipient: Path) -> Answer | None:
        return await self._foot(await self.inner.vrfy(recipient))

    async def unknown(self, line: bytes) -> Answer | None:
        return await self._foot(await self.inner.unknown(line))

    async def reset(self) -> None:
        await self.inner.reset()

    async def close(self) -> None:
        await self.inner.close()
