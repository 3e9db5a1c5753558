"""The SMTP verbs: each reads what it must, asks the session, and returns the answer.

The answers to junk, errors and odd forms come from here; the dialogue's own
rules are in :mod:`smtpgw.edge.session`, the connection in
:mod:`smtpgw.edge.conversation`.  Where it cannot be known where a message ends,
or where a client sends one unasked, the connection ends: nothing of a message
is ever taken for a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol, cast

from structlog.typing import FilteringBoundLogger

from smtpgw.edge import commands
from smtpgw.edge.budget import TOO_MANY_ERRORS
from smtpgw.edge.commands import Command
from smtpgw.edge.conversation import SHUTDOWN, Conversation, Goodbye
from smtpgw.edge.inbox import EndOfInputError, LineTooLongError
from smtpgw.edge.messages import NO_ARGUMENT, MessageVerbs, closing, octets
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.proxy import Header
from smtpgw.edge.road import Answer, Connection, Note, Refused, no_note
from smtpgw.edge.screening import Screened
from smtpgw.edge.secure import missing_certificate
from smtpgw.edge.session import OK, Session
from smtpgw.edge.upstream import NO_HEADER, header_of

BYE = Answer(221, "2.0.0", "Bye", hangup=True)
EARLY_TALKER = Answer(521, "5.5.1", "Protocol error", hangup=True)
NOT_OFFERED = Answer(502, "5.5.1", "Command not implemented")
HELP = Answer(214, "2.0.0", "See RFC 5321")
READY_FOR_TLS = Answer(220, "2.0.0", "Ready to start TLS")
TLS_ALREADY = Answer(503, "5.5.1", "TLS already active")

_MAIL_VERBS = ("EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT", "STARTTLS", "AUTH")
_OTHER_VERBS = ("NOOP", "VRFY", "EXPN", "ETRN", "HELP", "XCLIENT", "XFORWARD")

OFFERED = frozenset((*_MAIL_VERBS, *_OTHER_VERBS))
"""Verbs with a method here; aiosmtpd has more."""

LMTP_OFFERED = (OFFERED - {"EHLO", "HELO", "ETRN"}) | {"LHLO"}
"""The same where LMTP is spoken (RFC 2033 section 4.1)."""

_REFUSE_THEMSELVES = frozenset({"DATA", "BDAT", "STARTTLS"})
"""Verbs where more than the answer depends on whether it is their turn."""

FORBIDDEN = Answer(221, "2.7.0", "This is an SMTP server, goodbye", hangup=True)


class Admit(Protocol):
    """Makes a client's session, or gives the answer that turns it away; with the PROXY protocol
    once when the client is there and once more when it is known who that is."""

    def __call__(
        self, protocol: GatewaySMTP, transport: asyncio.Transport, header: Header | None = None
    ) -> Session | Answer: ...


class GatewaySMTP(MessageVerbs):
    """One connection's dialogue.

    `admit` makes its session once the transport is known, or gives the answer
    that turns the client away; `ended` is told when all is over.
    """

    def __init__(
        self,
        options: EdgeOptions,
        admit: Admit,
        ended: Callable[[Conversation], None],
        log: FilteringBoundLogger,
    ) -> None:
        super().__init__(options, ended, log)
        self._admit = admit
        self.connection: Connection | None = None
        self.note: Note = no_note
        self.screened: Screened | None = None
        self._session: Session | None = None
        self._refusal: Answer | None = SHUTDOWN
        self._offered = LMTP_OFFERED if options.dialogue.lmtp else OFFERED

    @property
    def dialogue(self) -> Session:
        """The session of an admitted client."""
        session = self._session
        if session is None:
            raise RuntimeError("the client was not admitted")
        return session

    @property
    def in_transaction(self) -> bool:
        return self.dialogue.state.in_transaction

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for admission before anything is read or said."""
        self._met(cast(asyncio.Transport, transport))
        super().connection_made(transport)

    def _let_go(self) -> None:
        super()._let_go()
        self.connection = self._session = self.screened = None

    def _met(self, transport: asyncio.Transport, header: Header | None = None) -> None:
        admitted = self._admit(self, transport, header)
        if isinstance(admitted, Answer):
            self._session, self._refusal = None, admitted
        else:
            self._session, self._refusal = admitted, None

    async def converse(self) -> None:
        try:
            await self._header()
            await self._greet()
            await self.serve()
        finally:
            self._drop_chunks()
            if self.screened is not None:
                self.screened.over()

    async def _header(self) -> None:
        """Wait for the PROXY protocol, where it comes first, and ask for admission again."""
        upstream, transport = self.options.upstream, self._wire
        if upstream is None or transport is None or self.connection is None:
            return
        if self._refusal is NO_HEADER:
            header = await header_of(self, self.connection.client, upstream, self.log)
            self._met(transport, header)

    async def _greet(self) -> None:
        refused = self._refusal or await self.dialogue.attempt("connection")
        if refused is not None:
            if self.options.tls_wrapper:
                self.abort()  # a handshake costs more than there is to say
            await self._part(refused)
        if self.screened is not None and not self.options.tls_wrapper:
            await self.screened.greet(self)
            self.dialogue.announces_pipelining = not self.screened.hides_pipelining
        if self.options.tls_wrapper:
            await self._secure(None)
        if self.options.greet_delay:
            await asyncio.sleep(self.options.greet_delay)
            if self.inbox.waiting:
                await self._part(EARLY_TALKER)
        banner = await self.dialogue.connect()
        if not banner.positive:
            await self._part(banner)
        await self.say(banner)

    async def _part(self, answer: Answer) -> None:
        """Turn the client away."""
        said = self._noted(answer, "")
        self.log.info("turned away", code=said.code, reason=said.text, reference=said.reference)
        await self.say(closing(said))

    async def too_long(self, error: LineTooLongError) -> None:
        await self._refuse(commands.ENDLESS if error.endless else commands.TOO_LONG)

    async def obey(self, line: bytes) -> None:
        if self.options.dialogue.command_filter is not None:
            line = await self._filtered(line)
        if self.screened is not None:
            await self.screened.line(self, line)
        command = commands.parse_command(line)
        if isinstance(command, Answer):
            await self._refuse(command)
        elif command.bare_lf and self._refuses_bare_lf():
            await self._refuse(commands.BARE_LF, command.verb)
        elif command.verb in self.options.dialogue.forbidden:
            await self._refuse(FORBIDDEN, command.verb)
        elif command.verb in self.options.dialogue.noop:
            await self.say(OK)
        elif command.verb not in self._offered:
            await self._refuse(await self.dialogue.unknown(line.rstrip(b"\r\n")), command.verb)
        else:
            await self._dispatch(command)

    async def _filtered(self, line: bytes) -> bytes:
        """The line that smtpd_command_filter has for this one."""
        find = self.options.dialogue.command_filter
        if find is None:
            return line
        text = line.rstrip(b"\r\n")
        found = await find(text) if text else None
        return line if found is None else found + line[len(text) :]

    def _refuses_bare_lf(self) -> bool:
        """A lone LF may end a command that is typed, never one of several sent at once."""
        return self.options.content.bare_newline == "reject" or self.inbox.waiting

    async def _dispatch(self, command: Command) -> None:
        """Run a verb's method and send its answer."""
        refusal = None
        if command.verb not in _REFUSE_THEMSELVES:
            refusal = self.dialogue.refusal(command.verb)
        if refusal is not None:
            await self._refuse(refusal, command.verb)
            return
        argument = command.argument.decode("utf-8", "surrogateescape")
        await self._carry_out(command.verb, self._verbs[command.verb](self, argument))

    async def _carry_out(self, verb: str, work: Coroutine[Any, Any, Answer | None]) -> None:
        """Send the answer that a command comes to."""
        try:
            answer = await work
        except (Goodbye, EndOfInputError, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 - ours; the client is to come again
            # It may have been in mid-message, so what follows cannot be read on.
            answer = closing(self.dialogue.broken(error))
        if answer is not None and not answer.positive:
            await self._refuse(answer, verb)
            return
        if answer is not None:
            await self.say(answer)
        if self._budget.spend(verb, answer):
            await self._part(TOO_MANY_ERRORS)

    async def _refuse(self, answer: Answer, verb: str = "") -> None:
        """Say no."""
        said = self._noted(answer, verb)
        self.log.info(
            "refused", command=verb, code=said.code, enhanced=said.enhanced, reason=said.text,
            reference=said.reference,
        )  # fmt: skip
        await self.say(said)
        await self._spend(verb, answer)

    async def _spend(self, verb: str, answer: Answer | None) -> None:
        """Count a command that was answered; the last error a client may make ends it all."""
        if self._budget.spend(verb, answer):
            await self._part(TOO_MANY_ERRORS)

    async def say(self, answer: Answer) -> None:
        """Send an answer, as slowly as the client's errors so far have earned."""
        delay = self._budget.delay
        if delay:
            await self.flush()
            await asyncio.sleep(delay)
        await super().say(answer)

    def _noted(self, answer: Answer, verb: str) -> Answer:
        """The answer with the reference that it is found by; the road's own have one already."""
        if answer.reference or self.connection is None:
            return answer
        helo, sender = b"", b""
        if self._session is not None:
            helo, sender = self._session.known
        refused = Refused(self.connection, verb, answer, helo, sender)
        return replace(answer, reference=self.note(refused))

    async def smtp_EHLO(self, hostname: str) -> Answer:  # noqa: N802 - aiosmtpd's names
        """RFC 5321 section 4.1.1.1."""
        return await self._hello(hostname, esmtp=True)

    async def smtp_HELO(self, hostname: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.1."""
        return await self._hello(hostname, esmtp=False)

    async def smtp_LHLO(self, hostname: str) -> Answer:  # noqa: N802
        """RFC 2033 section 4.1."""
        return await self._hello(hostname, esmtp=True)

    async def _hello(self, hostname: str, *, esmtp: bool) -> Answer:
        self._drop_chunks()
        return await self.dialogue.hello(octets(hostname), esmtp=esmtp)

    async def smtp_MAIL(self, arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.2."""
        return await self.dialogue.mail(octets(arg))

    async def smtp_RCPT(self, arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.3."""
        return await self.dialogue.rcpt(octets(arg))

    async def smtp_RSET(self, arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.5."""
        if arg:
            return NO_ARGUMENT
        self._drop_chunks()
        await self.dialogue.reset()
        return OK

    async def smtp_STARTTLS(self, arg: str) -> Answer | None:  # noqa: N802
        """RFC 3207.  No answer once TLS is on: the dialogue starts anew."""
        refusal = NO_ARGUMENT if arg else None
        if self.options.security is None:
            refusal = NOT_OFFERED
        elif self.secure:
            refusal = TLS_ALREADY
        refusal = refusal or self.dialogue.refusal("STARTTLS")
        refusal = refusal or await self.dialogue.attempt("starttls")
        if refusal is None:
            await self._secure(READY_FOR_TLS)
        return refusal

    async def _secure(self, ready: Answer | None) -> None:
        """TLS, after which the dialogue starts anew.  A handshake counts unless it resumes a
        session, also one that failed."""
        too_often, resumed = None, False
        try:
            tls = await self.start_tls(ready)
            resumed = self.resumed
        finally:
            if not resumed:
                too_often = await self.dialogue.attempt("newtls")
        if too_often is not None:
            await self._part(too_often)
        objection = missing_certificate(tls) if self.options.tls_certificate else None
        await self.dialogue.secured(tls)
        if objection is not None:
            if ready is not None:
                await self.next_line()  # an answer is heard only after a command
            await self._part(objection)

    async def smtp_AUTH(self, arg: str) -> Answer:  # noqa: N802
        """RFC 4954 section 4."""
        return await self.dialogue.auth(arg, self._challenge)

    async def _challenge(self, text: bytes) -> bytes | None:
        """The line that answers a 334; None for one that is too long."""
        await self.push(b"334 " + text)
        try:
            line = await self.next_line(self.dialogue.response_limit + 2)
        except LineTooLongError as error:
            if error.endless:
                await self.say(commands.ENDLESS)
            return None
        return line.rstrip(b"\r\n")

    async def smtp_XCLIENT(self, arg: str) -> Answer:  # noqa: N802
        """XCLIENT_README."""
        answer = await self.dialogue.xclient(octets(arg))
        self.connection = self.dialogue.connection
        return answer

    async def smtp_XFORWARD(self, arg: str) -> Answer:  # noqa: N802
        """XFORWARD_README."""
        return await self.dialogue.xforward(octets(arg))

    async def smtp_QUIT(self, arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.10."""
        return NO_ARGUMENT if arg else BYE

    async def smtp_NOOP(self, _arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.9."""
        return OK

    async def smtp_VRFY(self, arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 3.5.3."""
        return await self.dialogue.vrfy(octets(arg))

    async def smtp_EXPN(self, _arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 7.3: not offered."""
        return NOT_OFFERED

    async def smtp_ETRN(self, arg: str) -> Answer:  # noqa: N802
        """RFC 1985."""
        return await self.dialogue.etrn(octets(arg)) if self.options.etrn else NOT_OFFERED

    async def smtp_HELP(self, _arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.8."""
        return HELP
