"""What a client is answered for policy's sake: one session's facts, and its restriction lists asked
about them as the dialogue goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from milterd.base.waiting import at_once
from milterd.core.decision import Reply
from milterd.core.mail import Family
from smtpgw.address.params import MailParams
from smtpgw.address.path import Path
from smtpgw.edge.names import LOCAL, PeerName
from smtpgw.edge.road import Connection, Hello, Login
from smtpgw.policy.engine import Policy, Review
from smtpgw.policy.facts import Facts, State
from smtpgw.policy.ports import Ports
from smtpgw.policy.record import Actions, Decision, Record
from smtpgw.policy.settled import Key, Passed, Who
from smtpgw.tables.table import Unavailable

BAD_SENDER = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT = Reply(501, "5.1.3", "Bad recipient address syntax")
_ALONE = frozenset({State.EHLO, State.HELO, State.DATA, State.VRFY})
"""Commands behind which nothing may be sent before their answer (RFC 2920 section 3.1)."""
MOST_RECORDS = 20
"""Of commands that were let pass, for one mail."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`source` is the rule, `listed` the list it stands in, `decided` which parameters and tables
    it went by, for the log; `record` all that was asked on the way."""

    source: str
    reply: Reply
    decided: tuple[str, ...] = ()
    record: Record | None = None
    hangup: bool = False
    listed: str = ""


class Admission:
    """One client's.  `own` says that it is in mynetworks, or has come by a UNIX socket; `records`
    is what was asked about this mail and let it pass, as far as there is room."""

    def __init__(
        self, policy: Policy, ports: Ports, connection: Connection, log: FilteringBoundLogger
    ) -> None:
        self._policy, self._log, self._probes = policy, log, ports.probes
        self._connection, self._ports = connection, ports
        self._review = Review(policy, ports)
        self._unsure: Unavailable | None = None
        self._last: Record | None = None
        self.own = False
        self._session: dict[str, Any] = {}
        self._who: Who | None = None
        self._mail: dict[str, Any] = {}
        self._facts: Facts | None = None
        self.records: list[Record] = []

    @property
    def facts(self) -> Facts:
        """What is known by now, put together when somebody asks: most sessions pass by what is
        remembered of others, and nobody does."""
        if self._facts is None:
            self._facts = _begin(self._connection).but(**self._session, **self._mail)
        return self._facts

    def _known(self, **changes: object) -> None:
        """Facts of the session."""
        self._session, self._facts, self._who = {**self._session, **changes}, None, None

    def _said(self, **changes: object) -> None:
        """Facts of this mail."""
        self._mail.update(changes)
        self._facts = None

    @property
    def actions(self) -> Actions:
        """What tables want to be done with this mail."""
        return self._review.actions

    async def know(self) -> None:
        """At CONNECT: whether it is in mynetworks.  What cannot be known then is asked for again
        at MAIL; a session is not lost for it."""
        self._unsure = None
        client = self._connection.client
        if client.family is Family.UNIX:
            self.own = True
            return
        try:
            self.own = bool(await self._review.trusted(client.address))
        except Unavailable as error:
            self._unsure = error
            self._log.warning("mynetworks cannot be asked", table=error.name, reason=error.reason)

    async def connect(self) -> Refusal | None:
        """Why the client may not speak."""
        await self.know()
        if self._idle(State.CONNECT):
            return None
        return self._noted(await self._review.client(self._at(State.CONNECT)))

    async def helo(self, hello: Hello) -> Refusal | None:
        """Why EHLO or HELO is refused; the facts of a refused one are not kept."""
        before = self._session
        self._known(helo=hello.name, esmtp=hello.esmtp, tls=hello.tls, login=hello.login)
        state = State.EHLO if hello.esmtp else State.HELO
        if self._idle(state):
            return None
        # Which protocol it is counts from the answer on, as with smtpd.
        asked = self._at(state).but(esmtp=before.get("esmtp", False))
        refusal = self._noted(await self._review.helo(asked))
        if refusal is not None:
            self._session, self._facts = before, None
            self._known(tls=hello.tls)
        return refusal

    def login(self, login: Login | None) -> None:
        """Who has logged in."""
        self._known(login=login)

    async def mail(
        self, sender: Path, params: MailParams | None = None, queue_id: str = ""
    ) -> Refusal | None:
        """Why MAIL is refused."""
        if self._unsure is not None:
            await self.know()
        address = sender.meant
        try:
            if address and await self._policy.site.resolver.wrong(address):
                return Refusal("syntax", BAD_SENDER)
        except Unavailable:
            # As with Postfix, it is RCPT that says so, for the recipients whom it concerns.
            return None
        self._begun(address, params, queue_id)
        if self._idle(State.MAIL):
            return None
        refusal = self._noted(await self._review.mail(self._at(State.MAIL)))
        if refusal is not None:
            self.reset()
        return refusal

    def passes_mail(self, sender: Path) -> bool:
        """Whether MAIL is let pass without anybody being asked."""
        address = sender.meant
        if self._unsure is not None or not self._review.idle(State.MAIL):
            return False
        if not address:
            return True
        resolver = self._policy.site.resolver
        wrong = resolver.wrong_now(address)
        if wrong is None and resolver.changes() is not None:
            wrong = at_once(resolver.wrong(address))
        return wrong is False

    def begun(self, sender: Path, params: MailParams, queue_id: str) -> None:
        """MAIL, where :meth:`passes_mail` was true."""
        self._begun(sender.meant, params, queue_id)
        self._last = None

    def _begun(self, address: bytes, params: MailParams | None, queue_id: str) -> None:
        """A mail, from MAIL on."""
        self._review.reset()
        size, utf8 = (params.size or 0, params.smtputf8) if params else (0, False)
        self._mail |= {
            "sender": address, "size": size, "utf8": utf8, "queue_id": queue_id,
            "instance": f"{self._connection.session}.{queue_id}",
        }  # fmt: skip
        self._facts = None

    def passed(self, recipient: Path) -> Passed | None:
        """How the recipient is let pass: as before, if nothing has changed since, or by what can
        be known without waiting."""
        kept = self._policy.passed.now()
        if kept is None:
            return None
        address = recipient.meant
        passed = kept.get(self._key(address))
        if passed is None and not (self._probes is not None and self._probes(address)):
            passed = at_once(self._judged(address, kept))
        return passed

    async def _judged(self, address: bytes, kept: dict[Key, Passed]) -> Passed | None:
        """How a recipient is let pass; nothing is noted of it.  Raises Unavailable."""
        wrong = self._policy.site.resolver.wrong
        if address.lower() != b"postmaster" and await wrong(address):
            return None
        decision = await self._review.rcpt(self._at(State.RCPT, recipient=address))
        passed = self._review.passed(decision)
        if passed is not None:
            kept[self._key(address)] = passed
            return Passed(decision.record, passed.sender_listed, passed.recipient_listed)
        return None

    def pass_again(self, recipient: Path, passed: Passed) -> None:
        """RCPT, which comes to what it came to before: the recipient is taken."""
        self._review.recall(passed)
        self._note(passed.record)
        mail = self._mail
        mail["recipient"] = recipient.meant
        mail["recipients"] = mail["recipients"] + 1 if "recipients" in mail else 1
        self._facts = None

    def _key(self, address: bytes) -> Key:
        """All that decides about a recipient (:mod:`settled`).  To be asked for anew when it is
        decided: whether the client is in mynetworks may have come out by then."""
        who = self._who
        if who is None:
            client, session = self._connection.client, self._session
            trusted = self._review.known(client.address)
            who = (
                client.family, client.address, self._connection.local_address, trusted,
                session.get("login"), session.get("helo"), session.get("esmtp", False),
            )  # fmt: skip
            self._who = who if trusted is not None else None
        return who, self._mail.get("sender"), address

    def data_now(self) -> bool:
        """Whether DATA is let pass without anybody being asked."""
        if not self._review.idle(State.DATA):
            return False
        self._last = None
        return True

    async def rcpt(self, recipient: Path) -> Refusal | None:
        """Why RCPT is refused; 451 where a table is needed that cannot answer."""
        address = recipient.meant
        if self._probes is not None and self._probes(address):
            return None
        facts = self._at(State.RCPT, recipient=address)
        if address.lower() != b"postmaster":
            try:
                if await self._policy.site.resolver.wrong(address):
                    return Refusal("syntax", BAD_RECIPIENT)
            except Unavailable as error:
                return unavailable(address, error)
        kept = self._policy.passed.now()
        decision = await self._review.rcpt(facts)
        refusal = self._noted(decision)
        if refusal is None:
            passed = None if kept is None else self._review.passed(decision)
            if kept is not None and passed is not None:
                kept[self._key(address)] = passed
            self._said(recipient=address)
        return refusal

    async def vrfy(self, recipient: Path) -> Refusal | None:
        """Why RCPT would be refused, were it for this address; a mail under way hears nothing
        of it."""
        address = recipient.meant
        facts = self._at(State.VRFY, recipient=address)
        try:
            if await self._policy.site.resolver.wrong(address):
                return Refusal("syntax", BAD_RECIPIENT)
        except Unavailable as error:
            return unavailable(address, error)
        return refusal_of(await Review(self._policy, self._ports).rcpt(facts))

    def accepted(self) -> None:
        """The recipient is taken: nobody else has refused him."""
        self._said(recipients=self._mail.get("recipients", 0) + 1)

    async def data(self) -> Refusal | None:
        """Why DATA, or the first BDAT, is refused."""
        if self._idle(State.DATA):
            return None
        return self._noted(await self._review.data(self._at(State.DATA)))

    async def end_of_data(self, size: int) -> Refusal | None:
        """Why the message is refused, which has so many octets."""
        if self._idle(State.END_OF_MESSAGE):
            return None
        facts = self._at(State.END_OF_MESSAGE, size=size)
        return self._noted(await self._review.end_of_data(facts))

    async def etrn(self, node: str) -> Refusal | None:
        """Why ETRN is refused."""
        facts = self._at(State.ETRN, etrn=node.encode())
        return self._noted(await self._review.etrn(facts))

    def _noted(self, decision: Decision) -> Refusal | None:
        if decision.reply is None:
            self._note(decision.record)
            return None
        self._last = decision.record
        return refusal_of(decision)

    def _note(self, record: Record) -> None:
        """What was asked where the answer is yes."""
        if record.rows and len(self.records) < MOST_RECORDS:
            self.records.append(record)
        self._last = record

    def reset(self) -> None:
        """The transaction is over."""
        self._review.reset()
        self.records = []
        if self._mail:
            self._mail, self._facts = {}, None

    def take(self) -> list[dict[str, object]]:
        """What was asked for the last command, once."""
        last, self._last = self._last, None
        return last.as_dicts() if last is not None else []

    def _idle(self, state: State) -> bool:
        """Whether nothing is asked at a command, for which nothing but its haste counts then."""
        if not self._review.idle(state):
            return False
        self._look(state)
        self._last = None
        return True

    def _at(self, state: State, **changes: object) -> Facts:
        """The facts for a command."""
        self._look(state)
        return self.facts.but(state=state, **changes)

    def _look(self, state: State) -> None:
        """Who has once sent more before it might is known for it."""
        session = self._session
        early = state in _ALONE or not (session.get("esmtp") or state is State.END_OF_MESSAGE)
        if early and "pipelining" not in session and self._connection.pending():
            self._known(pipelining=True)


def unavailable(address: bytes, error: Unavailable) -> Refusal:
    """For what a table cannot answer now; what the table says is for the log."""
    return Refusal("tables", lookup_failure(address), (f"{error.name}: {error.reason}",))


def lookup_failure(address: bytes) -> Reply:
    """The reply of that."""
    text = address.decode("utf-8", "replace")
    text = "".join(each if each.isprintable() else "?" for each in text)
    return Reply(451, "4.3.0", f"<{text}>: Temporary lookup failure")


def _begin(connection: Connection) -> Facts:
    client = connection.client
    names = connection.peer
    if names is None:
        names = LOCAL if client.family is Family.UNIX else PeerName(name=client.name)
    return Facts(
        client=client,
        names=names,
        listener=connection.listener,
        local_address=connection.local_address,
        local_port=connection.local_port,
        stressed=connection.stressed,
        session=connection.session,
    )


def refusal_of(decision: Decision) -> Refusal | None:
    """The same for the log; None where there is nothing against it."""
    if decision.reply is None:
        return None
    record = decision.record
    return Refusal(
        decision.rule, decision.reply, record.decided, record, decision.hangup, decision.listed
    )
