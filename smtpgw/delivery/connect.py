"""From a hop to a connection that mail may go by: TCP, greeting, STARTTLS, AUTH.

Whatever fails here raises Lost with `next_host`: nothing of a mail was said.  Only what
is wrong with us, like a password file nobody may use, is the same for every host.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from dataclasses import dataclass

from smtpgw.delivery.client import Connection
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import ClientOptions, PoolOptions
from smtpgw.delivery.outcome import clean
from smtpgw.delivery.passwords import Passwords, PasswordsUnusable
from smtpgw.delivery.sasl import STEPS, BadChallenge, Credentials, Exchange, NoMechanism, choose
from smtpgw.delivery.tls import TlsPolicies, TlsPolicy, facts, objection, server_name
from smtpgw.delivery.wire import Lost, Wire

IN_THE_CLEAR = TlsPolicy("none")
_WAYS = 1000
"""Hosts of which the way is remembered, where no file with passwords may change it."""


@dataclass(frozen=True, slots=True)
class Way:
    """All that makes one connection as good as another: where to, by which TLS, as whom.

    The nexthop is not part of it, so that domains with the same hosts share connections.
    """

    host: str
    address: str
    port: int
    lmtp: bool
    policy: TlsPolicy
    credentials: Credentials | None

    def __hash__(self) -> int:
        """The same for policies that differ alone, which hosts that differ hardly are."""
        return hash((self.address, self.port))

    @property
    def hop(self) -> Hop:
        """Where to, without its nexthop."""
        return Hop("", self.host, self.address, self.port, self.lmtp)


class Connector:
    """Opens connections.  Raises ValueError for TLS policies that cannot be understood."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._tls = TlsPolicies(options.tls)
        self._ways: dict[Hop, Way] = {}
        sasl = options.sasl
        usable = sasl.smtp_sasl_auth_enable and sasl.smtp_sasl_password_maps
        self._passwords = (
            Passwords(sasl.smtp_sasl_password_maps, lambda: asyncio.get_running_loop().time())
            if usable
            else None
        )

    @property
    def constant(self) -> bool:
        """Whether the way to a host never changes."""
        return self._passwords is None

    def client(self, way: Way) -> ClientOptions:
        """How to speak on it."""
        return self._options.lmtp if way.lmtp else self._options.smtp

    def way(self, hop: Hop) -> Way:
        """By which TLS and as whom mail goes there.  Raises :class:`Lost`."""
        if self._passwords is None:
            found = self._ways.get(hop)
            if found is None:
                if len(self._ways) >= _WAYS:
                    self._ways.clear()
                found = self._ways[hop] = self._way(hop)
            return found
        return self._way(hop)

    def _way(self, hop: Hop) -> Way:
        credentials = None
        if self._passwords is not None and not hop.local:
            try:
                credentials = self._passwords.find(hop)
            except PasswordsUnusable as error:
                raise _Ours(f"password file: {error}", "4.3.5") from None
        policy = self._tls.policy(hop)
        return Way(hop.host, hop.address, hop.port, hop.lmtp, policy, credentials)

    async def open(self, way: Way, *, again: bool) -> Connection:
        """A connection ready for mail.  Raises :class:`Lost`.

        Where TLS may be done without, it is when the handshake failed, but only for a mail
        that is tried `again` and without a password (Postfix's smtp_proto.c): trouble that
        passes, or is made, should not cost everybody's privacy.
        """
        try:
            try:
                return await self._open(way, way.policy)
            except _HandshakeFailed:
                if way.policy.required or way.credentials is not None or not again:
                    raise
            return await self._open(way, IN_THE_CLEAR)
        except Lost as error:
            error.next_host = not isinstance(error, _Ours)
            raise

    async def _open(self, way: Way, policy: TlsPolicy) -> Connection:
        wire = await self._connect(way)
        connection = Connection(wire, self.client(way), lmtp=way.lmtp, remote=way.host)
        try:
            await connection.greet()
            if policy.level != "none":
                await self._secure(connection, way, policy)
            if way.credentials is not None and b"AUTH" in connection.offered:
                await self._authenticate(connection, way, way.credentials)
        except BaseException:
            connection.drop()
            raise
        return connection

    async def _connect(self, way: Way) -> Wire:
        loop, hop = asyncio.get_running_loop(), way.hop
        try:
            async with asyncio.timeout(self.client(way).timeouts.connect):
                if hop.local:
                    return (await loop.create_unix_connection(Wire, hop.address))[1]
                source = self._source(hop.address)
                return (
                    await loop.create_connection(Wire, hop.address, hop.port, local_addr=source)
                )[1]
        except TimeoutError:
            raise Lost(f"connect to {hop}: timed out", "4.4.1") from None
        except OSError as error:
            # What the system says of several addresses at once has no number.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Lost(f"connect to {hop}: {reason}", "4.4.1") from None

    def _source(self, address: str) -> tuple[str, int] | None:
        """Our own address to come from, if one is given for this kind of address."""
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            return None
        options = self._options
        source = options.smtp_bind_address if version == 4 else options.smtp_bind_address6
        return (source, 0) if source else None

    async def _secure(self, peer: Connection, way: Way, policy: TlsPolicy) -> None:
        """STARTTLS, or not, as the policy has it (RFC 3207)."""
        if b"STARTTLS" not in peer.offered:
            if policy.required:
                raise Lost(f"TLS is required, but was not offered by host {way.hop}", "4.7.4")
            return
        limit = peer.options.timeouts.starttls
        reply = await peer.ask(b"STARTTLS\r\n", limit, "STARTTLS")
        if peer.wire.unread:  # whoever said it wants it taken for said under TLS
            raise Lost(f"host {way.hop}: plaintext after the reply to STARTTLS", "4.7.5")
        if reply.code == 220:
            await self._handshake(peer, way, policy)
            await peer.hello()
        elif policy.required or not peer.usable:
            words = clean(reply.octets)
            raise Lost(f"host {way.hop} refused to start TLS: {words}", "4.7.4")

    async def _handshake(self, peer: Connection, way: Way, policy: TlsPolicy) -> None:
        try:
            context = self._tls.context(policy)
        except ValueError as error:
            raise _Ours(f"TLS settings: {error}", "4.3.5") from None
        try:
            name, limit = server_name(policy, way.hop), peer.options.timeouts.starttls
            secured = await peer.wire.start_tls(context, name, limit)
        except Lost as error:
            raise _HandshakeFailed(f"host {way.hop}: {error.text}", error.enhanced) from None
        wrong = objection(policy, secured)
        if wrong is not None:
            raise Lost(f"host {way.hop} is not verified: {wrong}", "4.7.5")
        peer.tls = facts(policy, secured)

    async def _authenticate(self, peer: Connection, way: Way, credentials: Credentials) -> None:
        """AUTH (RFC 4954).  What fails is a deferral (smtp_sasl_auth_soft_bounce)."""
        sasl = self._options.sasl
        security = (
            sasl.smtp_sasl_tls_security_options if peer.tls else sasl.smtp_sasl_security_options
        )
        try:
            mechanism = choose(peer.offered[b"AUTH"], sasl.smtp_sasl_mechanism_filter, security)
        except NoMechanism as error:
            raise Lost(f"SASL authentication failed: {error}", "4.7.0") from None
        exchange = Exchange(mechanism, credentials)
        limit = peer.options.timeouts.helo
        reply = await peer.ask(exchange.first + b"\r\n", limit, "AUTH")
        for _ in range(STEPS):
            if reply.code != 334 or peer.wire.unread:
                break
            try:
                line = exchange.answer(b" ".join(reply.lines))
            except BadChallenge as error:
                await peer.ask(b"*\r\n", limit, "AUTH")
                raise Lost(f"SASL authentication failed: {error}", "4.7.0") from None
            reply = await peer.ask(line + b"\r\n", limit, "AUTH")
        if reply.code != 235 or peer.wire.unread:
            words = clean(exchange.hide(reply.octets))
            status = reply.enhanced if reply.kind in (4, 5) and reply.enhanced else "4.7.8"
            text = f"SASL authentication failed; server {way.hop} said: {words}"
            raise Lost(text, f"4{status[1:]}")

    def check(self) -> None:
        """Read every file that the options name.

        Raises ValueError or :class:`PasswordsUnusable`.
        """
        self._tls.check()
        if self._passwords is not None:
            self._passwords.check()


class _HandshakeFailed(Lost):
    """TLS could not be agreed on."""


class _Ours(Lost):
    """The same for every host: something of ours is wrong."""
