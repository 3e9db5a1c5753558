"""The gateway's policy for settings of a test, asked without a gateway round it."""

from __future__ import annotations

import asyncio

from milterd.base import logs
from milterd.core.mail import Client as Peer
from smtpgw import config, wiring
from smtpgw.address.path import NULL, Path
from smtpgw.addresses import open_addresses
from smtpgw.admission import Admission
from smtpgw.edge.road import Connection, Login
from smtpgw.policy.ports import Ports


class Policy:
    """What these settings say; the tables are in memory."""

    def __init__(self, text: str, listener: str = "mx") -> None:
        own = config.parse(text).smtpgw
        one = next(each for each in own.listener if each.name == listener)
        self.plan = wiring.plan(own, one, open_addresses(own, logs.get("test")))

    def admission(self, client: Peer) -> Admission:
        return self.of(Connection("mx", client))

    def of(self, connection: Connection) -> Admission:
        return Admission(self.plan.policies[0], Ports(), connection, logs.get("test"))

    def refuses(self, client: Peer, recipient: Path, *, authenticated: bool = False) -> str:
        async def asked() -> str:
            admission = self.admission(client)
            await admission.know()
            admission.login(Login(b"u") if authenticated else None)
            await admission.mail(NULL)
            refusal = await admission.rcpt(recipient)
            return str(refusal.reply) if refusal else ""

        return asyncio.run(asked())
