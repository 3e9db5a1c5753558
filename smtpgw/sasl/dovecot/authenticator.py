"""Logins judged by Dovecot: every mechanism that it offers, its dialogue passed through."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from smtpgw.edge.auth import Challenge, Circumstances, Exchange, Failure, Mechanism, Step, Success
from smtpgw.sasl.dovecot import codec
from smtpgw.sasl.dovecot.client import DovecotClient, DovecotOptions
from smtpgw.sasl.dovecot.codec import Accepted, Continue, Event, Question, Refused
from smtpgw.sasl.dovecot.link import Link, Unavailable

LONGEST_REASON = 200
"""Characters of Dovecot's reason that a client is told."""

_GUESS = (Mechanism("PLAIN", frozenset({"plaintext"})),)
"""What is offered while Dovecot has never been reached: a client that tries is told to come
again, where one that sees no AUTH at all may tell its user that the server has none."""


class DovecotAuthenticator:
    """An :class:`~smtpgw.edge.auth.Authenticator`."""

    def __init__(self, options: DovecotOptions, log: FilteringBoundLogger) -> None:
        self._client = DovecotClient(options, log)

    async def mechanisms(self) -> tuple[Mechanism, ...]:
        """What Dovecot offers, has offered last, or surely would."""
        found = await self._client.mechanisms()
        return _GUESS if found is None else found

    def exchange(self, mechanism: str, circumstances: Circumstances, /) -> Exchange:
        """A new login."""
        service = self._client.options.service
        return _Exchange(self._client, _question(mechanism, service, circumstances))

    def retire(self) -> None:
        """No new session comes here."""
        self._client.retire()

    async def close(self) -> None:
        """Give up the connection."""
        await self._client.close()


def _question(mechanism: str, service: str, circumstances: Circumstances) -> Question:
    connection, tls = circumstances.connection, circumstances.tls
    certificate = tls.certificate if tls is not None else None
    trusted = certificate is not None and certificate.trusted
    return Question(
        mechanism=mechanism,
        service=service,
        secured=tls is not None,
        local=connection.local_address,
        local_port=connection.local_port,
        remote=connection.client.address,
        remote_port=connection.client.port,
        certificate=certificate.subject if certificate is not None and trusted else None,
    )


class _Exchange:
    def __init__(self, client: DovecotClient, question: Question) -> None:
        self._client, self._question = client, question
        self._link: Link | None = None
        self._number = 0
        self._open = False

    async def begin(self, initial: bytes | None) -> Step:
        """AUTH."""
        try:
            self._link = link = await self._client.link()
            self._number, self._open = link.begin(), True
            line = codec.auth(self._number, self._question, initial)
            return self._step(await self._client.ask(link, self._number, line))
        except Unavailable as error:
            return Failure(str(error), temporary=True)

    async def respond(self, response: bytes) -> Step:
        """CONT."""
        if self._link is None:
            raise RuntimeError("a response before the beginning")
        try:
            line = codec.cont(self._number, response)
            return self._step(await self._client.ask(self._link, self._number, line))
        except Unavailable as error:
            return Failure(str(error), temporary=True)

    def _step(self, event: Event) -> Step:
        match event:
            case Continue():
                return Challenge(event.data)
            case Accepted():
                self._open = False
                return Success(event.user)
            case Refused():
                self._open = False
                return _failure(event)
            case _:
                raise RuntimeError("an answer to no login")

    def end(self) -> None:
        """CANCEL, if Dovecot still waits."""
        if self._link is not None and self._number:
            self._link.end(self._number, cancel=self._open)
            self._client.settle()


def _failure(event: Refused) -> Failure:
    reason = event.reason.decode("utf-8", "replace")
    printable = "".join(each if each.isascii() and each.isprintable() else "?" for each in reason)
    code = event.code.decode("ascii", "replace")
    return Failure(
        printable or code or "refused by Dovecot",
        event.user,
        "" if event.temporary else printable[:LONGEST_REASON],
        event.temporary,
    )
