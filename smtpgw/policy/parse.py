"""A restriction list as main.cf has it, made into rules when the settings are read.

    permit_mynetworks, reject_unauth_destination
    check_client_access cidr:/etc/gatepost/clients, warn_if_reject reject_rbl_client zen.example
    hash:/etc/gatepost/clients          the check_..._access that the list is about
    check_policy_service { inet:127.0.0.1:10031, timeout=10s, default_action=DUNNO }

Commas and white space part restrictions; inside braces they do not.  Every name must be known,
every argument there, every table one that can be opened: nothing is left for a mail to find out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from milterd.base.near import nearest
from smtpgw.address.find import Maps
from smtpgw.policy import registry
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import Argument, Restriction
from smtpgw.policy.run import Rule, Rules, Run
from smtpgw.tables import spec

WARN = "warn_if_reject"
PREDEFINED: Mapping[str, str] = {
    "reject_sender_login_mismatch": "reject_authenticated_sender_login_mismatch, "
    "reject_unauthenticated_sender_login_mismatch",
}
"""Classes that are always there."""
REQUIRED = (
    "reject_unauth_destination", "defer_unauth_destination", "reject", "defer", "defer_if_permit",
    "check_relay_domains",
)  # fmt: skip
"""One of these must stand in the relay or the recipient list."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """What was found in a list, what was expected there, and the nearest right spelling."""

    found: str
    expected: str
    nearest: str = ""

    def __str__(self) -> str:
        meant = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"found {self.found}, expected {self.expected}{meant}"


class RuleError(ValueError):
    """All that is wrong with a list."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(map(str, self.mistakes)))


OpenTable = Callable[[str], Maps | None]
"""The table of that name, None where it cannot be opened and somebody else tells of it.  Raises
ValueError saying what is wrong with the name."""


@dataclass(slots=True)
class Parser:
    """`classes`: the text of each restriction class by its name.  `check_service` raises ValueError
    for the text of a policy service that means none, `check_throttle` for the name of a throttle
    that there is not.  `warnings` are lists that can
    be used but will surprise."""

    classes: Mapping[str, str]
    open_table: OpenTable
    check_service: Callable[[str], object] = str
    check_throttle: Callable[[str], object] = str
    warnings: list[Mistake] = field(default_factory=list)
    _bodies: dict[tuple[str, str], Rules] = field(default_factory=dict)
    _within: list[str] = field(default_factory=list)

    def rules(self, text: str, bare: str = "") -> Rules:
        """A list; `bare` is the restriction that a table alone stands for.  Raises RuleError."""
        mistakes: list[Mistake] = []
        words = list(spec.split(text))
        found: list[Rule] = []
        warn = False
        while words:
            word = words.pop(0)
            if word.lower() == WARN:
                warn = True
                continue
            rule = self._rule(word, words, bare, mistakes)
            if rule is not None:
                found.append(replace(rule, warn=True) if warn else rule)
            warn = False
        if warn:
            mistakes.append(Mistake(f"{WARN} at the end", "a restriction behind it"))
        if mistakes:
            raise RuleError(mistakes)
        self._look_behind(found)
        return tuple(found)

    def _rule(self, word: str, words: list[str], bare: str, mistakes: list[Mistake]) -> Rule | None:
        """One restriction, whose argument is taken from the words behind it."""
        if ":" in word:
            if not bare:
                expected = "check_client_access, check_sender_access or the like before a table"
                mistakes.append(Mistake(word, expected))
                return None
            words.insert(0, word)
            word = bare
        known = registry.find(word)
        if known is None:
            return self._class(word, bare, mistakes)
        if known.argument is Argument.NONE:
            return Rule(word, known.name, known.check)
        if not words:
            mistakes.append(Mistake(f"{word} at the end", f"{known.argument.value} behind it"))
            return None
        argument = words.pop(0)
        try:
            return self._with_argument(word, known, argument)
        except ValueError as error:
            mistakes.append(Mistake(f"{word} {argument}", str(error)))
            return None

    def _with_argument(self, word: str, known: Restriction, argument: str) -> Rule | None:
        """Raises ValueError."""
        value = None if known.prepare is None else known.prepare(argument)
        maps = None
        match known.argument:
            case Argument.TABLE:
                if ":" not in argument:
                    raise ValueError(known.argument.value)
                maps = self.open_table(_table(argument))
                if maps is None:
                    return None
            case Argument.NUMBER:
                if not (argument.isascii() and argument.isdigit()):
                    raise ValueError(known.argument.value)
            case Argument.SERVICE:
                if ":" not in argument:
                    raise ValueError(known.argument.value)
                self.check_service(argument)
            case Argument.DOMAIN | Argument.WORD:
                if registry.find(argument) is not None or ":" in argument:
                    raise ValueError(f"{known.argument.value} behind it")
                if known.argument is Argument.WORD:
                    self.check_throttle(argument)
        return Rule(f"{word} {argument}", known.name, known.check, argument, maps, value)

    def _class(self, word: str, bare: str, mistakes: list[Mistake]) -> Rule | None:
        """A restriction class; its tables alone stand for what they would in this list."""
        if word not in self.classes:
            names = (*registry.names(), WARN, *self.classes)
            near = nearest(word.lower(), names)
            mistakes.append(Mistake(word, "a restriction, a restriction class or type:table", near))
            return None
        if word in self._within:
            circle = " -> ".join((*self._within, word))
            mistakes.append(Mistake(circle, "restriction classes that do not name themselves"))
            return None
        key = word, bare
        if key not in self._bodies:
            self._within.append(word)
            try:
                self._bodies[key] = self.rules(self.classes[word], bare)
            except RuleError as error:
                mistakes += (
                    replace(each, found=f"{word}: {each.found}") for each in error.mistakes
                )
                return None
            finally:
                self._within.pop()
        return Rule(word, word, _each, rules=self._bodies[key])

    def _look_behind(self, rules: list[Rule]) -> None:
        for rule, behind in itertools.pairwise(rules):
            if rule.name in ("permit", "reject", "defer") and not rule.warn:
                self.warnings.append(Mistake(f"{behind.text} behind {rule.text}", "nothing there"))


async def _each(run: Run, rule: Rule) -> Outcome:
    """A restriction class."""
    return await run.rules(rule.rules)


def _table(argument: str) -> str:
    """The table of `type:name` or of `{ type:name, search_order = ... }`.  Raises ValueError."""
    if not argument.startswith("{"):
        return argument
    return next(spec.split(spec.inside(argument)), "")


def required(rules: Rules) -> bool:
    """Whether strangers cannot relay by these rules: one of REQUIRED stands in them, not only to
    be warned of, and before any `permit`."""
    for rule in rules:
        if rule.warn:
            continue
        if rule.name == "permit":
            return False
        if rule.name in REQUIRED or required(rule.rules):
            return True
    return False
