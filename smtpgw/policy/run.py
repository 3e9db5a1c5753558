"""One command judged: rules are asked one after the other, as smtpd_check.c of Postfix does it.

A rule says nothing, yes or no.  Yes ends its list and no ends everything.  What cannot be known
now may turn a later yes (defer_if_permit) or a later no (defer_if_reject) into "try again".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from milterd.core.decision import Reply
from smtpgw.address.find import Maps
from smtpgw.address.resolve import Resolved
from smtpgw.dns.allowance import Allowance
from smtpgw.policy import text as words
from smtpgw.policy.facts import Facts
from smtpgw.policy.options import PolicyOptions, Site
from smtpgw.policy.ports import Ports
from smtpgw.policy.record import FAILED, NO_ACTIONS, WORDS, Actions, Outcome, Record
from smtpgw.tables.table import Unavailable

DEEPEST = 100
"""How deep tables that name restrictions may lead to other tables."""

Check = Callable[["Run", "Rule"], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A restriction of a list: its `text` as it was written, what it does, and its argument.
    `warn` says that warn_if_reject stands before it; `rules` is what a class consists of."""

    text: str
    name: str
    check: Check
    argument: str = ""
    maps: Maps | None = None
    value: object = None
    warn: bool = False
    rules: tuple[Rule, ...] = ()


Rules = tuple[Rule, ...]
Parse = Callable[[str, "Scope"], Rules]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a list is about: its parameter, what is refused (`what`, of :mod:`text`) and its name
    for replies; `bare` is the restriction that a table alone stands for, empty if there is none."""

    listed: str
    what: str
    name: bytes
    bare: str = ""


_NOWHERE = Scope("", "", b"")


class Failed(Exception):  # noqa: N818 - never an error of ours: it carries a reply
    """Everything ends here, with a reply: a table that cannot answer, a mistake in one."""

    def __init__(self, code: int, status: str, text: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.status, self.text = code, status, text


@dataclass(slots=True)
class Deferral:
    """A reason to say "try again"; the first one counts while it is active."""

    active: bool = False
    code: int = 0
    status: str = ""
    text: str = ""

    def raise_(self, code: int, status: str, text: str) -> None:
        """Keep it, unless there is one."""
        if not self.active:
            self.active, self.code, self.status, self.text = True, code, status, text


@dataclass(slots=True)
class Memory:
    """What lasts longer than a command: the deferrals of earlier ones, what tables have asked for,
    and whose addresses were looked at."""

    permit: Deferral = field(default_factory=Deferral)
    after_client: bool = False
    after_helo: bool = False
    after_sender: bool = False
    actions: Actions = NO_ACTIONS
    sender_listed: bool = False
    recipient_listed: bool = False
    trusted: dict[bytes, str] = field(default_factory=dict)
    allowance: Allowance | None = None


async def trusted(memory: Memory, site: Site, address: bytes) -> str:
    """What put the client at this address into mynetworks, or nothing.  Raises Unavailable."""
    found = memory.trusted.get(address)
    if found is None:
        found = memory.trusted[address] = await site.mynetworks.match(address)
    return found


class Run:
    """The judging of one command."""

    __slots__ = (
        "_depth", "_parse", "_resolved", "_said", "_warn", "facts", "memory", "options", "ports",
        "record", "refusal", "reject_deferral", "rule", "scope", "site", "within_policy",
    )  # fmt: skip

    def __init__(
        self,
        facts: Facts,
        options: PolicyOptions,
        site: Site,
        ports: Ports,
        memory: Memory,
        parse: Parse,
    ) -> None:
        self.facts, self.options, self.site, self.ports = facts, options, site, ports
        self.memory, self._parse = memory, parse
        self.record = Record()
        self.refusal: Reply | None = None
        self.rule = ""
        self.reject_deferral = Deferral()
        self.within_policy = 0
        self.scope = _NOWHERE
        self._depth, self._warn = 0, False
        self._said = "", ""
        self._resolved: dict[tuple[bytes, bytes], Resolved] = {}

    # -- lists ---------------------------------------------------------------------

    async def list(self, rules: Rules, scope: Scope) -> Outcome:
        """A whole list; what goes wrong in it is a refusal."""
        self.scope = scope
        self._depth, self._warn = 0, False
        if not rules:
            return Outcome.DUNNO
        try:
            return await self.rules(rules)
        except Failed as error:
            self._warn = False
            self.record.add(scope.listed, self.rule, answer=str(error), outcome=FAILED)
            return self.reject(error.code, error.status, error.text, always=True)

    async def rules(self, rules: Rules) -> Outcome:
        """Rules of the list that is being asked, one after the other."""
        self._depth += 1
        outcome = Outcome.DUNNO
        clock = self.ports.clock
        for rule in rules:
            if self.memory.actions.discard:
                break
            warned, began = self._warn, clock()
            self._warn = warned or rule.warn
            self._said = "", ""
            if self._depth == 1 or not rule.rules:
                self.rule = rule.text
            try:
                outcome = await rule.check(self, rule)
            except Unavailable as error:
                raise self.lookup_failure(self.scope.name, error) from error
            self._warn = warned
            said, reply = self._said
            word = said or WORDS[outcome]
            self.record.add(
                self.scope.listed, rule.text, outcome=word, reply=reply, seconds=clock() - began
            )
            if outcome is not Outcome.DUNNO:
                break
            if self.memory.permit.active and self.reject_deferral.active:
                break
        self._depth -= 1
        return outcome

    async def named(self, text: str, name: bytes, what: str) -> Outcome:
        """Restrictions that a table or a service names, about what it was asked for.
        Raises Failed."""
        if self._depth > DEEPEST:
            raise self.misconfigured(f"{text!r} leads to more than {DEEPEST} others")
        try:
            rules = self._parse(text, self.scope)
        except ValueError as error:
            raise self.misconfigured(f"{text!r}: {error}") from error
        outer, self.scope = self.scope, replace(self.scope, name=name, what=what)
        outcome = await self.rules(rules)
        self.scope = outer
        return outcome

    # -- what a rule may say ---------------------------------------------------------

    def reject(self, code: int, status: str, text: str, *, always: bool = False) -> Outcome:
        """No; unless it is only to be warned of.  `always`: a fault of ours, of which no warning
        is made."""
        options = self.options
        reply = words.reply(code, status, text, soft=options.soft_bounce)
        if self._warn and not always:
            self._said = "would reject", str(reply)
            return Outcome.DUNNO
        deferral = self.reject_deferral
        if deferral.active and (reply.code >= 500 or (options.soft_bounce and code >= 500)):
            deferral.active = self._warn = False
            reply = words.reply(
                deferral.code, deferral.status, deferral.text, soft=options.soft_bounce
            )
        self.refusal = reply
        self._said = Outcome.REJECT.value, str(reply)
        return Outcome.REJECT

    def refused(self, name: bytes, what: str, code: int, status: str, why: str) -> Outcome:
        """No, in Postfix's usual words: `<name>: what rejected: why`."""
        return self.reject(code, status, f"<{words.shown(name)}>: {what} rejected: {why}")

    def defer_if_permit(
        self, code: int, status: str, text: str, action: str = "defer_if_permit"
    ) -> Outcome:
        """Try again, if nothing else refuses; at once where `action` is `defer`."""
        if self._warn or action == "defer":
            return self.reject(code, status, text)
        self.memory.permit.raise_(code, status, text)
        self._said = "defer_if_permit", f"{code} {status} {text}"
        return Outcome.DUNNO

    def defer_if_reject(self, code: int, status: str, text: str) -> Outcome:
        """Try again, if anything else refuses."""
        self.reject_deferral.raise_(code, status, text)
        self._said = "defer_if_reject", f"{code} {status} {text}"
        return Outcome.DUNNO

    def note(self, outcome: str, text: str = "") -> None:
        """What came of the rule, for its step."""
        self._said = outcome, text

    def act(self, outcome: str, **changes: object) -> None:
        """Something is to be done with the mail."""
        self.memory.actions = replace(self.memory.actions, **changes)  # type: ignore[arg-type]
        self._said = outcome, str(next(iter(changes.values()), ""))

    @property
    def warning(self) -> bool:
        """Whether a no of this rule would only be warned of."""
        return self._warn

    # -- what can go wrong ------------------------------------------------------------

    def lookup_failure(self, name: bytes, error: Exception) -> Failed:
        """A table that cannot answer now."""
        text = f"<{words.shown(name)}>: Temporary lookup failure"
        return Failed(451, "4.3.0", text, str(error))

    def misconfigured(self, detail: str) -> Failed:
        """A mistake of the postmaster's that shows only now."""
        return Failed(451, "4.3.5", "Server configuration error", detail)

    # -- what many rules need -----------------------------------------------------------

    def asked(self, table: str, key: str, answer: str, where: str = "", took: float = 0.0) -> None:
        """A step: a table, a zone or a service was asked."""
        self.record.add(
            self.scope.listed, self.rule, asked=table, key=key, answer=answer, where=where,
            seconds=took,
        )  # fmt: skip

    async def resolve(self, address: bytes, other: bytes | None) -> Resolved:
        """Where an address leads, completed as local ones are: `postmaster` may come alone.
        `other` is the other one of the envelope.  Raises Failed."""
        if address and b"@" not in address:
            address = self.site.resolver.standard.local(address)
        key = address, other or b""
        found = self._resolved.get(key)
        if found is None:
            try:
                found = await self.site.resolver.resolve(*key)
            except Unavailable as error:
                raise self.lookup_failure(address, error) from error
            self._resolved[key] = found
        return found

    async def trusted(self) -> str:
        """What put the client into mynetworks, or nothing.  Raises Unavailable."""
        return await trusted(self.memory, self.site, self.facts.client.address)

    @property
    def dns(self) -> Allowance:
        """What is left of the mail's time for the name service."""
        if self.memory.allowance is None:
            self.memory.allowance = Allowance(self.options.dns_limit, self.ports.clock)
        return self.memory.allowance
