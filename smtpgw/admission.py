"""Whom a session's client may send to: what the policy is asked at CONNECT, MAIL and RCPT, and
what becomes of a table that cannot answer.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from milterd.core.mail import Client
from smtpgw.address import form
from smtpgw.address.clients import ClientList
from smtpgw.address.path import Path
from smtpgw.policy import relay
from smtpgw.policy.recipients import Recipients, Refusal, lookup_failure
from smtpgw.tables.table import Unavailable


class Admission:
    """One client's.  `own` says that it is in mynetworks."""

    def __init__(
        self,
        client: Client,
        mynetworks: ClientList,
        recipients: Recipients,
        log: FilteringBoundLogger,
    ) -> None:
        self._client, self._mynetworks, self._recipients = client, mynetworks, recipients
        self._log = log
        self._unsure: Unavailable | None = None
        self.own = False

    async def know(self) -> None:
        """At CONNECT: whether it is in mynetworks.  What cannot be known then is asked for again
        at MAIL; a session is not lost for it."""
        self._unsure = None
        try:
            self.own = await relay.trusted(self._client, self._mynetworks)
        except Unavailable as error:
            self._unsure = error
            self._log.warning("mynetworks cannot be asked", table=error.name, reason=error.reason)

    async def mail(self, sender: Path) -> Refusal | None:
        """Why MAIL is refused."""
        if self._unsure is not None:
            await self.know()
        try:
            return await self._recipients.mail(form.internal(sender.address))
        except Unavailable:
            # As with Postfix, it is RCPT that says so, for the recipients whom it concerns.
            return None

    async def rcpt(
        self, recipient: Path, sender: Path | None, *, authenticated: bool
    ) -> Refusal | None:
        """Why RCPT is refused; 451 where a table is needed that cannot answer."""
        address = form.internal(recipient.address)
        internal = form.internal(sender.address) if sender is not None else b""
        try:
            if self._unsure is not None and recipient.domain and not authenticated:
                raise self._unsure
            own = self.own or authenticated
            return await self._recipients.rcpt(address, internal, own=own)
        except Unavailable as error:
            why = (f"{error.name}: {error.reason}",)
            return Refusal("tables", lookup_failure(address), why)
