"""One SMTP dialogue as a state machine: commands in, answers out, a road asked between.

No socket here.  Every method takes the octets of an argument and returns the
answer; :mod:`smtpgw.edge.states` says what may follow what.  Whatever the road
raises, or does not finish in time, is 451 with a trace id that the log has too
(what we break is temporary), and leaves the state as it was.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from structlog.typing import FilteringBoundLogger

from milterd.base.waiting import going_on
from milterd.core.mail import Client, Envelope, Recipient
from smtpgw.address.params import MailParams, ParamError, RcptParams
from smtpgw.address.path import Path, PathError, is_literal
from smtpgw.edge import vrfy
from smtpgw.edge.arguments import bad_path, forward_path, reverse_path
from smtpgw.edge.auth import ALREADY, NOT_ENABLED, RESPONSE_LIMIT, WELCOME, Ask, Logins
from smtpgw.edge.budget import TOO_MANY_RECIPIENTS
from smtpgw.edge.claims import Claims
from smtpgw.edge.content import Content
from smtpgw.edge.offer import greeting, offered, welcomed
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.road import Answer, Attempt, Connection, Hello, Login, SessionRoad, Tls
from smtpgw.edge.sink import TOO_LARGE
from smtpgw.edge.states import REFUSALS, State

OK = Answer(250, "2.0.0", "Ok")
SENDER_OK = Answer(250, "2.1.0", "Ok")
RECIPIENT_OK = Answer(250, "2.1.5", "Ok")
GO_AHEAD = Answer(354, "", "End data with <CR><LF>.<CR><LF>")
BAD_HELLO = Answer(501, "5.5.4", "Syntax: EHLO hostname")
BAD_NODE = Answer(501, "5.5.4", "Syntax: ETRN domain")
NO_SUCH_QUEUE = Answer(458, "4.5.4", "No queue of that name")
CANNOT_FLUSH = Answer(458, "4.3.0", "Unable to queue messages")
TLS_FIRST = Answer(530, "5.7.0", "Must issue a STARTTLS command first")

_HOST = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_.-])?\Z")

_FIRST = frozenset({"MAIL", "ETRN"})
"""What may come without EHLO where smtpd_helo_required is off."""

_BEFORE_TLS = frozenset({
    "EHLO", "HELO", "LHLO", "NOOP", "QUIT", "STARTTLS", "RSET", "HELP", "XCLIENT",
})  # fmt: skip

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


@dataclass(slots=True)
class Transaction:
    """MAIL and the RCPTs that were accepted."""

    sender: Path
    params: MailParams
    recipients: list[tuple[Path, RcptParams]] = field(default_factory=list)

    def envelope(self) -> Envelope:
        """The same, as the rest of the house has it."""
        recipients = [Recipient(each.address, said.args) for each, said in self.recipients]
        return Envelope(self.sender.address, self.params.args, tuple(recipients))


class Session:
    """The dialogue with one client.

    `spawn` starts a task that outlives the connection; `new_trace` makes the id
    that joins a 451 to its line in the log.
    """

    def __init__(
        self,
        road: SessionRoad,
        options: EdgeOptions,
        *,
        spawn: Spawn,
        new_trace: Callable[[], str],
        log: FilteringBoundLogger,
        connection: Connection | None = None,
    ) -> None:
        self.state = State.START
        self.announced: frozenset[str] = frozenset()
        self.announces_pipelining = True
        self._road = road
        self._options = options
        self._spawn = spawn
        self._new_trace = new_trace
        self._log = log
        self._tls: Tls | None = None
        self._claims = Claims(options.dialogue, connection or Connection("", Client()))
        self._helo = b""
        self._login: Login | None = None
        self._logins: Logins | None = None
        if options.auth is not None and connection is not None:
            self._logins = Logins(options.auth, connection, log)
        self._transaction: Transaction | None = None
        self._handover: asyncio.Task[None] | None = None

    @property
    def known(self) -> tuple[bytes, bytes]:
        """The name of the last EHLO or HELO, and the sender of the transaction."""
        return self._helo, self._transaction.sender.address if self._transaction else b""

    def refusal(self, verb: str) -> Answer | None:
        """Why `verb` may not be used now, if it may not."""
        if self._options.tls_required and self._tls is None and verb not in _BEFORE_TLS:
            return TLS_FIRST
        if self.state is State.START and verb in _FIRST and not self._options.helo_required:
            return None
        return REFUSALS[self.state].get(verb)

    async def connect(self) -> Answer:
        """The banner, or why there is none."""
        return await self._ask(self._road.connect()) or greeting(self._options)

    async def attempt(self, what: Attempt) -> Answer | None:
        """Why the client may not do this once more."""
        return await self._ask(self._road.attempt(what))

    async def hello(self, argument: bytes, *, esmtp: bool) -> Answer:
        """EHLO or HELO; either gives up a transaction (RFC 5321 section 4.1.4)."""
        if not (_HOST.match(argument) or is_literal(argument)):
            return BAD_HELLO
        if self.state.in_transaction or self._claims.facts:
            await self.reset()
        lmtp = self._options.dialogue.lmtp
        hello = Hello(argument, esmtp, self._tls, self._login, lmtp)
        answer = await self._ask(self._road.helo(hello))
        if answer is not None and not answer.positive:
            return answer
        self.state, self._helo = State.GREETED, argument
        offer = (*await self._offer(), *await self._logins_offered()) if esmtp else ()
        welcome, self.announced = welcomed(self._options.myhostname, offer)
        return welcome

    async def _offer(self) -> tuple[str, ...]:
        claims, tls = self._claims, self._tls is not None
        offer = await offered(self._options, claims.address, claims.peer, tls=tls)
        if self.announces_pipelining:
            return offer
        return tuple(each for each in offer if each != "PIPELINING")

    @property
    def connection(self) -> Connection:
        """Who is there, or who XCLIENT says is."""
        return self._claims.claim.connection

    @property
    def recipients(self) -> int:
        """How many the transaction has, each of which LMTP answers for."""
        return len(self._transaction.recipients) if self._transaction else 0

    async def xclient(self, argument: bytes) -> Answer:
        """XCLIENT: the client is another from now on, and the dialogue begins anew."""
        claim = await self._claims.xclient(argument, in_transaction=self.state.in_transaction)
        if isinstance(claim, Answer):
            return claim
        self.state, self._helo, self.announced = State.START, claim.helo, frozenset()
        self._admit(claim.connection, claim.login)
        self._log.info("XCLIENT", attributes=argument)
        answer = await self._ask(self._road.readmit(claim.connection, claim.login))
        if answer is None and claim.helo:
            hello = Hello(claim.helo, claim.esmtp, self._tls, claim.login)
            answer = await self._ask(self._road.helo(hello))
            self.state = State.GREETED
        return answer or greeting(self._options)

    def _admit(self, connection: Connection, login: Login | None) -> None:
        """Whose logins count from now on."""
        self._login = login
        if self._options.auth is not None:
            self._logins = Logins(self._options.auth, connection, self._log)

    async def xforward(self, argument: bytes) -> Answer:
        """XFORWARD: where the next mail came from, for the log and for policies."""
        facts = await self._claims.xforward(argument, in_transaction=self.state.in_transaction)
        if isinstance(facts, Answer):
            return facts
        return await self._ask(self._road.forwarded(facts)) or OK

    async def _logins_offered(self) -> tuple[str, ...]:
        return () if self._logins is None else await self._logins.offer(self._tls)

    @property
    def response_limit(self) -> int:
        """Octets of a client's response to a challenge of AUTH."""
        return RESPONSE_LIMIT if self._logins is None else self._logins.response_limit

    async def auth(self, argument: str, ask: Ask) -> Answer:
        """AUTH mechanism [initial-response] (RFC 4954 section 4); `ask` gets responses."""
        if self._logins is None:
            return NOT_ENABLED
        if self._login is not None:
            return ALREADY
        too_often = await self.attempt("auth")
        if too_often is not None:
            return too_often
        found = await self._logins.command(argument, self._tls, ask)
        if isinstance(found, Answer):
            return found
        return await self.logged_in(found) or WELCOME

    async def logged_in(self, login: Login) -> Answer | None:
        """Somebody has: why it counts for nothing, if it does."""
        refusal = await self._ask(self._road.login(login))
        if refusal is not None and not refusal.positive:
            return refusal
        self._login = login
        return None

    async def secured(self, tls: Tls) -> None:
        """TLS is on: all that was said before is forgotten (RFC 3207 section 4.2).

        There is no transaction to give up: STARTTLS is refused during one.
        """
        self._tls = tls
        before, self._login = self._login, None
        if before is not None:  # MAIL may come before EHLO
            await self._ask(self._road.login(None))
        self.state = State.START
        self.announced = frozenset()

    async def mail(self, argument: bytes) -> Answer:
        """MAIL FROM:<reverse-path> [parameters]."""
        if argument[:5].upper() != b"FROM:":
            return Answer(501, "5.5.4", "Syntax: MAIL FROM:<address>")
        strict = self._options.strict_rfc821_envelopes
        try:
            sender, params = reverse_path(argument[5:], strict, self._known)
        except PathError as error:
            return bad_path(error, "5.1.7", strict and argument[5:6] != b"<")
        except ParamError as error:
            return Answer(error.code, error.enhanced, error.reason)
        if not (params.smtputf8 or sender.is_ascii):
            return Answer(553, "5.6.7", "Address needs SMTPUTF8")
        if (params.size or 0) > self._options.content.message_size_limit:
            return TOO_LARGE
        answer = await self._ask(self._road.mail(sender, params)) or SENDER_OK
        if answer.positive:
            self._transaction = Transaction(sender, params)
            self.state = State.MAIL
        return answer

    async def rcpt(self, argument: bytes) -> Answer:
        """RCPT TO:<forward-path> [parameters]."""
        transaction = self._current()
        if argument[:3].upper() != b"TO:":
            return Answer(501, "5.5.4", "Syntax: RCPT TO:<address>")
        strict, utf8 = self._options.strict_rfc821_envelopes, transaction.params.smtputf8
        try:
            recipient, params = forward_path(argument[3:], strict, utf8, self.announced)
        except PathError as error:
            return bad_path(error, "5.1.3", strict and argument[3:4] != b"<")
        except ParamError as error:
            return Answer(error.code, error.enhanced, error.reason)
        if len(transaction.recipients) >= self._options.limits.recipient_limit:
            return TOO_MANY_RECIPIENTS
        answer = await self._ask(self._road.rcpt(recipient, params)) or RECIPIENT_OK
        if answer.positive:
            transaction.recipients.append((recipient, params))
            self.state = State.RCPT
        elif self.state is State.MAIL:
            self.state = State.REFUSED
        return answer

    async def data(self) -> Answer:
        """354, or why not.  A refusal here ends the transaction."""
        answer = await self._ask(self._road.data())
        if answer is None or answer.positive:
            return GO_AHEAD
        await self.reset()
        return answer

    def chunked(self) -> None:
        """A BDAT chunk was taken that was not the last."""
        self.state = State.CHUNKS

    async def message(self, content: Content | Answer) -> Answer:
        """The message, or what is wrong with it, has arrived; the transaction is over after it.

        The road works in a task of its own: who is lost now does not stop a commit.
        """
        if isinstance(content, Answer):
            await self.reset()
            return content
        envelope = self._current().envelope()
        self._over()
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._handover = self._spawn(self._hand_over(envelope, content, told))
        answer = await told
        self._handover = None
        return answer

    async def _hand_over(
        self, envelope: Envelope, content: Content, told: asyncio.Future[Answer]
    ) -> None:
        """Ends with an answer in `told`, unless nobody waits for it any more."""
        try:
            answer = await self._ask(self._road.message(envelope, content))
            if answer is None:
                answer = self.broken(TypeError("the road gave no answer to a message"))
        except BaseException:
            told.cancel()  # only our own end cancels this
            raise
        finally:
            content.close()
        if not told.done():
            told.set_result(answer)

    async def vrfy(self, argument: bytes) -> Answer:
        """VRFY address: what RCPT would say; 252 where that would take it."""
        if not self._options.dialogue.vrfy:
            return vrfy.DISABLED
        path = vrfy.wanted(argument)
        if isinstance(path, Answer):
            return path
        return await self._ask(self._road.vrfy(path)) or vrfy.taken(argument)

    async def etrn(self, argument: bytes) -> Answer:
        """ETRN node: a domain, with `@` before it all below it too (RFC 1985 section 5)."""
        node = argument.removeprefix(b"@")
        if node.startswith(b"#"):
            return NO_SUCH_QUEUE
        if not _HOST.match(node):
            return BAD_NODE
        below = node != argument
        answer = await self._ask(self._road.etrn(node.decode("ascii").lower(), below=below))
        return answer or CANNOT_FLUSH

    async def reset(self) -> None:
        """Give up the transaction, if there is one, and tell the road."""
        begun = self.state.in_transaction or self._claims.facts
        self._over()
        if begun:
            await self._ask(self._road.reset())

    async def unknown(self, line: bytes) -> Answer:
        """A verb that is not ours."""
        usual = Answer(500, "5.5.1", "Command not recognized")
        return await self._ask(self._road.unknown(line)) or usual

    async def close(self) -> None:
        """The client is gone: let a hand-over finish, then close the road."""
        if self._handover is not None:
            await asyncio.wait({self._handover})
        await self.reset()
        await self._ask(self._road.close())

    @property
    def _known(self) -> frozenset[str]:
        """Extensions that MAIL may use: who has logged in knows of AUTH, told or not
        (smtpd_sasl_exceptions_networks)."""
        return self.announced | {"AUTH"} if self._login else self.announced

    def _over(self) -> None:
        self._transaction = None
        if self._claims.facts:
            self._claims.facts.clear()
        if self.state is not State.START:
            self.state = State.GREETED

    def _current(self) -> Transaction:
        if self._transaction is None:
            raise RuntimeError(f"no transaction in state {self.state}")
        return self._transaction

    async def _ask(self, step: Coroutine[Any, Any, Answer | None]) -> Answer | None:
        """The road's answer, in time and without its exceptions."""
        try:
            try:
                first = step.send(None)
            except StopIteration as end:  # most steps wait for nothing
                answer: Answer | None = end.value
                return answer
            return await going_on(self._options.deadlines.processing, step, first)
        except Exception as error:  # noqa: BLE001 - any fault of ours is the client's 451
            return self.broken(error)

    def broken(self, error: Exception) -> Answer:
        trace = self._new_trace()
        self._log.error("internal error", trace=trace, exc_info=error)
        return Answer(451, "4.3.0", f"Internal error, reference {trace}")
