"""Who judges the logins of a worker's listeners: one judge for all that name the same, kept over
reloads, so that a connection to Dovecot stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from milterd.core.mail import Client
from smtpgw.address.clients import ClientList
from smtpgw.config import Listener, Smtpgw
from smtpgw.edge.auth import AuthOptions
from smtpgw.edge.options import EdgeOptions
from smtpgw.sasl.dovecot.authenticator import DovecotAuthenticator
from smtpgw.sasl.dovecot.client import DovecotOptions
from smtpgw.sasl.file.authenticator import FileAuthenticator
from smtpgw.sasl.file.judge import FileOptions
from smtpgw.tables.table import Unavailable
from smtpgw.wiring import sasl as wiring_sasl

Options = FileOptions | DovecotOptions
Judge = FileAuthenticator | DovecotAuthenticator


class LoginRoom:
    """The judges.  :meth:`equip` every listener, then :meth:`settle`."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._judges: dict[Options, Judge] = {}
        self._wanted: set[Options] = set()
        self._retired: list[Judge] = []

    def equip(
        self,
        edges: tuple[EdgeOptions, EdgeOptions],
        settings: Smtpgw,
        listener: Listener,
        mynetworks: ClientList,
    ) -> tuple[EdgeOptions, EdgeOptions]:
        """How a listener does usually and under stress, with logins if there are to be any.
        Raises ConfigError."""
        options = wiring_sasl.judge(settings, listener)
        if options is None:
            return edges
        reception = settings.reception(listener)
        plain, over_tls = wiring_sasl.mechanisms(settings, listener)
        networks = wiring_sasl.silent(settings, listener, mynetworks)

        async def silent(client: Client) -> bool:
            try:
                return bool(networks.elements and await networks.match(client.address))
            except Unavailable as error:
                self._log.warning("mynetworks cannot be asked", reason=error.reason)
                return False

        auth = AuthOptions(
            authenticator=self._judge(options),
            plain=plain,
            over_tls=over_tls,
            tls_only=reception.smtpd_tls_auth_only,
            response_limit=reception.smtpd_sasl_response_limit,
            tries=reception.smtpd_sasl_auth_limit,
            old_form=reception.broken_sasl_auth_clients,
            silent=silent,
        )
        fewer = settings.reception(listener, stress=True).smtpd_sasl_auth_limit
        usual, stressed = edges
        return replace(usual, auth=auth), replace(stressed, auth=replace(auth, tries=fewer))

    def _judge(self, options: Options) -> Judge:
        self._wanted.add(options)
        if options not in self._judges:
            self._judges[options] = (
                FileAuthenticator(options, self._log)
                if isinstance(options, FileOptions)
                else DovecotAuthenticator(options, self._log)
            )
        return self._judges[options]

    def settle(self) -> None:
        """New settings are in force: judges that no listener names any more go when their last
        login is over."""
        for options in self._judges.keys() - self._wanted:
            judge = self._judges.pop(options)
            self._retired.append(judge)
            judge.retire()
        self._wanted = set()

    async def close(self) -> None:
        """Give up all connections and threads."""
        judges = (*self._judges.values(), *self._retired)
        await asyncio.gather(*(each.close() for each in judges))
