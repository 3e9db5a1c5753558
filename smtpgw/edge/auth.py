"""AUTH (RFC 4954): what is offered to whom, and the dialogue between a client and whoever
judges its login.

The judge is an :class:`Authenticator` (:mod:`smtpgw.sasl`), which sees octets, no base64.
A response is never logged, decoded or not.  Whatever keeps the judge from judging is 454 for
the client and never a success.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from milterd.core.mail import Client
from smtpgw.edge.road import Answer, Connection, Login, Tls

RESPONSE_LIMIT = 12_288
"""Octets of a response in base64 that a server must be able to take (RFC 4954 section 4)."""
STEPS = 20
"""Challenges of one login: no mechanism needs nearly as many."""
LONGEST_NAME = 255
"""Octets of a login name."""

NOT_ENABLED = Answer(503, "5.5.1", "Authentication not enabled")
ALREADY = Answer(503, "5.5.1", "Already authenticated")
BAD_SYNTAX = Answer(501, "5.5.4", "Syntax: AUTH mechanism")
NOT_BASE64 = Answer(501, "5.5.2", "Response is not base64")
UNKNOWN_MECHANISM = Answer(504, "5.5.4", "Mechanism not offered")
CANCELLED = Answer(501, "5.7.0", "Authentication aborted")
TOO_LONG = Answer(500, "5.5.6", "SASL response limit exceeded")
FAILED = Answer(535, "5.7.8", "Authentication failed")
LATER = Answer(454, "4.7.0", "Temporary authentication failure")
TOO_MANY_TRIES = Answer(421, "4.7.0", "Too many failed logins", hangup=True)
WELCOME = Answer(235, "2.7.0", "Authentication successful")

_USABLE = re.compile(rb"[ -~\x80-\xff]{1,%d}\Z" % LONGEST_NAME)
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}\Z")


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A mechanism in upper case, and what Dovecot's protocol says of it: "plaintext",
    "dictionary", "active", "anonymous", "forward-secrecy", "mutual-auth"."""

    name: str
    properties: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Who wants to log in, and over what."""

    connection: Connection
    tls: Tls | None


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client is to answer this."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Success:
    """The login is good, for this name."""

    user: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """The login is bad, or `temporary`: nobody can say.  `reason` is for the log, `text` for the
    client; `user` is whose it was, as far as the judge tells."""

    reason: str
    user: bytes = b""
    text: str = ""
    temporary: bool = False


Step = Challenge | Success | Failure


class Exchange(Protocol):
    """One login."""

    async def begin(self, initial: bytes | None) -> Step:
        """The first step, with the client's initial response if it has sent one."""
        ...

    async def respond(self, response: bytes) -> Step:
        """The next one."""
        ...

    def end(self) -> None:
        """It is over, whatever became of it."""
        ...


class Authenticator(Protocol):
    """Who judges logins.  Steps take as long as its own deadlines allow; what it cannot judge is
    a temporary Failure."""

    async def mechanisms(self) -> tuple[Mechanism, ...]:
        """What it offers, as far as it is known in a moment."""
        ...

    def exchange(self, mechanism: str, circumstances: Circumstances, /) -> Exchange:
        """A new login."""
        ...


async def _nobody(_client: Client) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class AuthOptions:
    """How a listener's clients log in.

    `plain` and `over_tls` say which mechanisms are offered without TLS and with it, `tls_only`
    that none is without.  `silent` says which clients are not told of AUTH
    (smtpd_sasl_exceptions_networks).  `tries` may fail before the connection is closed.
    """

    authenticator: Authenticator
    plain: Callable[[Mechanism], bool]
    over_tls: Callable[[Mechanism], bool]
    tls_only: bool = True
    response_limit: int = RESPONSE_LIMIT
    tries: int = 10
    old_form: bool = False
    silent: Callable[[Client], Awaitable[bool]] = _nobody


Ask = Callable[[bytes], Awaitable[bytes | None]]
"""Sends a challenge in base64 and gives the line that answers it, without its end; None for one
over the limit."""


class Logins:
    """AUTH in one session.  Keep no password: nothing here outlives the command."""

    def __init__(
        self, options: AuthOptions, connection: Connection, log: FilteringBoundLogger
    ) -> None:
        self._options, self._connection, self._log = options, connection, log
        self._failed = 0

    @property
    def response_limit(self) -> int:
        """Octets of a response."""
        return self._options.response_limit

    async def offer(self, tls: Tls | None) -> tuple[str, ...]:
        """The lines of EHLO's answer, none where AUTH may not be used now."""
        if await self._options.silent(self._connection.client):
            return ()
        names = " ".join(await self._usable(tls))
        if not names:
            return ()
        return (f"AUTH {names}", f"AUTH={names}") if self._options.old_form else (f"AUTH {names}",)

    async def _usable(self, tls: Tls | None) -> tuple[str, ...]:
        if tls is None and self._options.tls_only:
            return ()
        fits = self._options.plain if tls is None else self._options.over_tls
        return tuple(
            each.name for each in await self._options.authenticator.mechanisms() if fits(each)
        )

    async def command(self, argument: str, tls: Tls | None, ask: Ask) -> Answer | Login:
        """What AUTH comes to: a login, or the answer."""
        if not (usable := await self._usable(tls)):
            return NOT_ENABLED
        words = argument.split()
        if not 1 <= len(words) <= 2:
            return BAD_SYNTAX
        name = words[0].upper()
        if _MECHANISM.match(name) is None or name not in usable:
            return UNKNOWN_MECHANISM
        initial = words[1].encode() if len(words) > 1 else None
        return await self._exchange(name, initial, Circumstances(self._connection, tls), ask)

    async def _exchange(
        self, name: str, initial: bytes | None, circumstances: Circumstances, ask: Ask
    ) -> Answer | Login:
        exchange = self._options.authenticator.exchange(name, circumstances)
        try:
            found = await self._converse(exchange, initial, ask)
        finally:
            exchange.end()
        if isinstance(found, Answer):
            self._count(name, "cancelled")
            self._log.info("login given up", command="AUTH", method=name, reason=found.text)
            return found
        if isinstance(found, Success):
            return self._succeed(name, found)
        return self._fail(name, found)

    async def _converse(
        self, exchange: Exchange, initial: bytes | None, ask: Ask
    ) -> Answer | Success | Failure:
        """The dialogue, up to its end, or the answer to a response that is none."""
        if initial is not None and len(initial) > self._options.response_limit:
            return TOO_LONG
        first = None if initial is None else _decoded(b"" if initial == b"=" else initial)
        if isinstance(first, Answer):
            return first
        step = await exchange.begin(first)
        for _ in range(STEPS):
            if not isinstance(step, Challenge):
                return step
            line = await ask(base64.b64encode(step.data))
            if line is None:
                return TOO_LONG
            if line == b"*":
                return CANCELLED
            response = _decoded(line)
            if isinstance(response, Answer):
                return response
            step = await exchange.respond(response)
        return Failure("a dialogue without end", temporary=True)

    def _succeed(self, name: str, found: Success) -> Answer | Login:
        if _USABLE.match(found.user) is None:
            return self._fail(name, Failure("no usable login name", temporary=True))
        self._count(name, "ok")
        self._log.info("login", command="AUTH", method=name, user=found.user)
        return Login(found.user, name)

    def _fail(self, name: str, found: Failure) -> Answer:
        self._count(name, "unavailable" if found.temporary else "failed")
        self._log.warning(
            "login failed",
            command="AUTH",
            filter="sasl",
            method=name,
            outcome="tempfailed" if found.temporary else "rejected",
            reason=found.reason,
            user=found.user[:LONGEST_NAME],
        )
        if found.temporary:
            return LATER
        self._failed += 1
        if self._failed >= self._options.tries:
            return TOO_MANY_TRIES
        if found.text:
            return Answer(FAILED.code, FAILED.enhanced, f"{FAILED.text}: {found.text}")
        return FAILED

    def _count(self, name: str, outcome: str) -> None:
        metrics.LOGINS.labels(self._connection.listener, name, outcome).inc()


def _decoded(response: bytes) -> bytes | Answer:
    try:
        return base64.b64decode(response, validate=True)
    except binascii.Error:
        return NOT_BASE64
