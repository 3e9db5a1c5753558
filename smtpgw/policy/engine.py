"""The restriction lists of a listener, and the judging of a session by them (smtpd(8)).

With smtpd_delay_reject, as usual, the client, helo and sender lists are asked at RCPT (and the
first two at ETRN), when all that they may look at is known.  `permit` ends its own list only; a
refusal ends all.  Recipients, and senders if so wished, of ours that nobody has are refused though
no list says so.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from smtpgw.address.remembered import Remembered
from smtpgw.policy import restrictions as _restrictions  # noqa: F401 - they register themselves
from smtpgw.policy import settled
from smtpgw.policy import text as words
from smtpgw.policy.facts import Facts, State
from smtpgw.policy.listed import recipient_listed, sender_listed
from smtpgw.policy.options import PolicyOptions, Site
from smtpgw.policy.parse import PREDEFINED, Parser
from smtpgw.policy.ports import Ports
from smtpgw.policy.record import NO_ACTIONS, Actions, Decision, Outcome
from smtpgw.policy.run import Memory, Rule, Rules, Run, Scope, trusted
from smtpgw.policy.settled import Passed

_PARSED = 1000
"""Values of tables that were parsed are kept, at most so many."""
_HANGUP = (421, 521)

LISTS: Mapping[str, tuple[str, str]] = {
    "smtpd_client_restrictions": (words.CLIENT, "check_client_access"),
    "smtpd_helo_restrictions": (words.HELO, "check_helo_access"),
    "smtpd_sender_restrictions": (words.SENDER, "check_sender_access"),
    "smtpd_relay_restrictions": (words.RECIPIENT, "check_recipient_access"),
    "smtpd_recipient_restrictions": (words.RECIPIENT, "check_recipient_access"),
    "smtpd_data_restrictions": (words.DATA, ""),
    "smtpd_end_of_data_restrictions": (words.END_OF_DATA, ""),
    "smtpd_etrn_restrictions": (words.ETRN, "check_etrn_access"),
}
"""Each list: what it refuses, and what a table alone stands for in it."""
_IMPLIED = {
    "reject_unlisted_recipient": LISTS["smtpd_recipient_restrictions"],
    "reject_unlisted_sender": LISTS["smtpd_sender_restrictions"],
}
"""The same of what is asked though no list says so."""
_DELAYED = frozenset({State.CONNECT, State.EHLO, State.HELO, State.MAIL})
"""Commands whose lists smtpd_delay_reject puts off."""
_CONTENT = {
    State.DATA: "smtpd_data_restrictions",
    State.END_OF_MESSAGE: "smtpd_end_of_data_restrictions",
}
"""Commands about the message, and their lists."""


def _no_tables(name: str) -> None:
    raise ValueError(f"a restriction class that has {name}: tables cannot be named in tables")


class Policy:
    """The lists of a listener, ready for use.  `lists` are by parameter; `parser` has read them,
    and opens no table from now on."""

    def __init__(
        self,
        options: PolicyOptions,
        site: Site,
        lists: Mapping[str, Rules],
        parser: Parser | None = None,
    ) -> None:
        self.options, self.site, self.lists = options, site, lists
        self.parser = parser or Parser(PREDEFINED, _no_tables)
        self.parser.open_table = _no_tables
        self.idle = _idle(options, lists)
        """Commands at which nothing is asked."""
        self.passed = Remembered[settled.Key, Passed](
            settled.watching(options, site, lists), settled.MOST
        )
        """Decisions at RCPT that are kept (:mod:`settled`)."""
        # What a table names is parsed once: the same value comes again and again.
        self._parsed = functools.lru_cache(_PARSED)(self.parser.rules)

    def named(self, text: str, scope: Scope) -> Rules:
        """Restrictions that a table names.  Raises ValueError."""
        return self._parsed(text, scope.bare)


def _idle(options: PolicyOptions, lists: Mapping[str, Rules]) -> frozenset[State]:
    found = set(_DELAYED) if options.smtpd_delay_reject else set[State]()
    return frozenset(found.union(each for each, name in _CONTENT.items() if not lists.get(name)))


class Review:
    """The judging of one session; facts come with each command.

    Every method returns what was decided and why; a decision without reply lets pass.
    """

    def __init__(self, policy: Policy, ports: Ports) -> None:
        self._policy, self._ports = policy, ports
        self._memory = Memory()

    @property
    def actions(self) -> Actions:
        """What tables have asked for so far."""
        return self._memory.actions

    def reset(self) -> None:
        """The mail is over, or was given up."""
        self._memory.actions = NO_ACTIONS
        self._memory.allowance = None

    def idle(self, state: State) -> bool:
        """Whether nothing is asked at a command: it passes, and nobody need make facts for it."""
        if state not in self._policy.idle:
            return False
        if state in _CONTENT:
            self._memory.permit.active = False
        return True

    async def trusted(self, address: bytes) -> str:
        """What put the client at this address into mynetworks, or nothing.  Raises Unavailable."""
        return await trusted(self._memory, self._policy.site, address)

    def known(self, address: bytes) -> str | None:
        """The same as this session has it, None where it does not know yet."""
        return self._memory.trusted.get(address)

    async def client(self, facts: Facts) -> Decision:
        """At CONNECT."""
        run = self._run(facts)
        if self._policy.options.smtpd_delay_reject:
            return _let_pass(run)
        return self._decided(run, await self._client(run))

    async def helo(self, facts: Facts) -> Decision:
        """At EHLO and HELO."""
        run = self._run(facts)
        if self._policy.options.smtpd_delay_reject:
            return _let_pass(run)
        return self._decided(run, await self._helo(run))

    async def mail(self, facts: Facts) -> Decision:
        """At MAIL."""
        run = self._run(facts)
        if self._policy.options.smtpd_delay_reject:
            return _let_pass(run)
        return self._decided(run, await self._mail(run))

    async def rcpt(self, facts: Facts) -> Decision:
        """At RCPT, and at VRFY as if it were."""
        run = self._run(facts)
        if facts.recipient is not None and facts.recipient.lower() == b"postmaster":
            return _let_pass(run)
        self._memory.recipient_listed = False
        outcome = await self._delayed(run, mail=True)
        if outcome is not Outcome.REJECT:
            outcome = await self._rcpt(run)
        return self._decided(run, outcome)

    def passed(self, decision: Decision) -> Passed | None:
        """What the last RCPT has come to, for sessions that keep it; None if it is not to be."""
        memory = self._memory
        if decision.reply is not None or memory.permit.active or memory.actions:
            return None
        record = settled.untimed(decision.record)
        return Passed(record, memory.sender_listed, memory.recipient_listed)

    def recall(self, passed: Passed) -> None:
        """As :meth:`rcpt`, which has come to this before."""
        memory = self._memory
        memory.permit.active = False
        memory.after_client = memory.after_helo = memory.after_sender = False
        memory.sender_listed = passed.sender_listed
        memory.recipient_listed = passed.recipient_listed

    async def etrn(self, facts: Facts) -> Decision:
        """At ETRN."""
        run, memory = self._run(facts), self._memory
        outcome = await self._delayed(run, mail=False)
        if outcome is not Outcome.REJECT:
            memory.permit.active = memory.after_client or memory.after_helo
            outcome = await self._list(run, "smtpd_etrn_restrictions", facts.etrn or b"")
            outcome = self._deferred(run, outcome)
        return self._decided(run, outcome)

    async def data(self, facts: Facts) -> Decision:
        """At DATA, or the first BDAT."""
        return await self._content(facts, "smtpd_data_restrictions", b"DATA")

    async def end_of_data(self, facts: Facts) -> Decision:
        """Once the message is here."""
        return await self._content(facts, "smtpd_end_of_data_restrictions", b"END-OF-MESSAGE")

    # -- the lists -------------------------------------------------------------------

    def _run(self, facts: Facts) -> Run:
        policy = self._policy
        return Run(facts, policy.options, policy.site, self._ports, self._memory, policy.named)

    async def _list(self, run: Run, listed: str, name: bytes, *, fresh: bool = True) -> Outcome:
        rules = self._policy.lists.get(listed, ())
        if fresh:
            run.reject_deferral.active = False
        if not rules and not self._memory.permit.active:
            return Outcome.DUNNO
        what, bare = LISTS[listed]
        return await run.list(rules, Scope(listed, what, name, bare))

    async def _client(self, run: Run) -> Outcome:
        self._memory.permit.active = False
        outcome = Outcome.DUNNO
        if self._policy.lists.get("smtpd_client_restrictions"):
            name = run.facts.shown.encode()
            outcome = await self._list(run, "smtpd_client_restrictions", name)
        self._memory.after_client = self._memory.permit.active
        return outcome

    async def _helo(self, run: Run) -> Outcome:
        helo, memory = run.facts.helo, self._memory
        if helo is None:
            return Outcome.DUNNO
        memory.permit.active = memory.after_client
        outcome = await self._list(run, "smtpd_helo_restrictions", helo)
        memory.after_helo = memory.permit.active
        return outcome

    async def _mail(self, run: Run) -> Outcome:
        sender, memory = run.facts.sender, self._memory
        if sender is None:
            return Outcome.DUNNO
        memory.permit.active = memory.after_client or memory.after_helo
        memory.sender_listed = False
        outcome = await self._list(run, "smtpd_sender_restrictions", sender)
        memory.after_sender = memory.permit.active
        if outcome is Outcome.REJECT or not run.options.smtpd_reject_unlisted_sender:
            return outcome
        return await self._implied(run, _UNLISTED_SENDER, sender, outcome)

    async def _delayed(self, run: Run, *, mail: bool) -> Outcome:
        """What smtpd_delay_reject has put off until now."""
        if not run.options.smtpd_delay_reject:
            return Outcome.DUNNO
        for each in (self._client, self._helo, *((self._mail,) if mail else ())):
            outcome = await each(run)
            if outcome is Outcome.REJECT:
                return outcome
        return Outcome.DUNNO

    async def _rcpt(self, run: Run) -> Outcome:
        memory, recipient = self._memory, run.facts.recipient or b""
        memory.permit.active = memory.after_sender
        lists = "smtpd_relay_restrictions", "smtpd_recipient_restrictions"
        if not run.options.smtpd_relay_before_recipient_restrictions:
            lists = lists[1], lists[0]
        outcome = Outcome.DUNNO
        for number, listed in enumerate(lists):
            outcome = await self._list(run, listed, recipient, fresh=not number)
            if outcome is Outcome.REJECT:
                return outcome
        outcome = self._deferred(run, outcome)
        if outcome is Outcome.REJECT or not run.options.smtpd_reject_unlisted_recipient:
            return outcome
        return await self._implied(run, _UNLISTED_RECIPIENT, recipient, outcome)

    async def _content(self, facts: Facts, listed: str, name: bytes) -> Decision:
        # What is asked about one of several recipients is nothing about the mail.
        run = self._run(facts if facts.recipients <= 1 else facts.but(recipient=None))
        self._memory.permit.active = False
        outcome = self._deferred(run, await self._list(run, listed, name))
        return self._decided(run, outcome)

    async def _implied(self, run: Run, rules: Rules, name: bytes, before: Outcome) -> Outcome:
        """What is asked though no list says so, unless one did."""
        if self._memory.actions.discard:
            return before
        listed = f"smtpd_{rules[0].name}"
        what, bare = _IMPLIED[rules[0].name]
        outcome = await run.list(rules, Scope(listed, what, name, bare))
        return before if outcome is Outcome.DUNNO else outcome

    def _deferred(self, run: Run, outcome: Outcome) -> Outcome:
        """A yes that an earlier "not known now" has turned into "try again"."""
        deferral = self._memory.permit
        if outcome is Outcome.REJECT or not deferral.active:
            return outcome
        run.rule = "defer_if_permit"
        rejected = run.reject(deferral.code, deferral.status, deferral.text, always=True)
        run.record.add(
            run.scope.listed, run.rule, outcome=rejected.value, reply=str(run.refusal or "")
        )
        return rejected

    def _decided(self, run: Run, outcome: Outcome) -> Decision:
        if outcome is not Outcome.REJECT or run.refusal is None:
            return _let_pass(run)
        reply = run.refusal
        return Decision(reply, run.record, run.rule, run.scope.listed, hangup=reply.code in _HANGUP)


def _let_pass(run: Run) -> Decision:
    return Decision(None, run.record)


async def _recipient(run: Run, _rule: Rule) -> Outcome:
    return await recipient_listed(run)


async def _sender(run: Run, _rule: Rule) -> Outcome:
    return await sender_listed(run)


_UNLISTED_RECIPIENT = (Rule("reject_unlisted_recipient", "reject_unlisted_recipient", _recipient),)
_UNLISTED_SENDER = (Rule("reject_unlisted_sender", "reject_unlisted_sender", _sender),)
