"""What Postfix is answered that asks us: the restrictions of a policy listener, and what they come
to as an action of access(5).

A refusal is answered with its codes and text; one that waits for others to permit with
DEFER_IF_PERMIT.  A permit ends our list and is answered DUNNO: in Postfix's list it would end
everything behind it, reject_unauth_destination too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from structlog.typing import FilteringBoundLogger

from smtpgw.policy import text as words
from smtpgw.policy.engine import Policy
from smtpgw.policy.facts import Facts
from smtpgw.policy.ports import Ports
from smtpgw.policy.record import Actions, Outcome
from smtpgw.policy.run import Memory, Run, Scope
from smtpgw.policy_facts import facts

LIST = "smtpd_recipient_restrictions"
"""The list whose rules of syntax a policy listener's restrictions follow."""
_NAMED = re.compile(r"<[^>]*>: [A-Z][A-Za-z ]* rejected: ")
"""What our replies begin with, and Postfix puts before a service's answer itself."""


class Answers:
    """Those of one policy listener: an :data:`smtpgw.delegation.server.Evaluate`."""

    def __init__(self, name: str, policy: Policy, ports: Ports, log: FilteringBoundLogger) -> None:
        self._name, self._policy, self._ports = name, policy, ports
        self._log = log.bind(listener=name)

    async def __call__(self, request: Mapping[str, str]) -> str:
        """The action."""
        asked = facts(request, self._name)
        memory = Memory()
        policy = self._policy
        run = Run(asked, policy.options, policy.site, self._ports, memory, policy.named)
        what, name = _about(asked)
        scope = Scope("policy_listener", what, name, "check_recipient_access")
        outcome = await run.list(policy.lists[LIST], scope)
        action = _action(run, memory, outcome)
        self._log.info(
            "policy",
            outcome=action,
            client=asked.address,
            sender=asked.sender,
            recipient=asked.recipient,
            decided=list(run.record.decided),
        )
        return action


def _about(asked: Facts) -> tuple[str, bytes]:
    """What a reply would name."""
    if asked.recipient is not None:
        return words.RECIPIENT, asked.recipient
    if asked.sender is not None:
        return words.SENDER, asked.sender
    return words.CLIENT, asked.shown.encode()


def _action(run: Run, memory: Memory, outcome: Outcome) -> str:
    if outcome is Outcome.REJECT and run.refusal is not None:
        reply = run.refusal
        return f"{reply.code} {reply.enhanced} {_bare(reply.text)}"
    if memory.permit.active:
        return f"DEFER_IF_PERMIT {memory.permit.status} {_bare(memory.permit.text)}"
    if run.reject_deferral.active:
        deferral = run.reject_deferral
        return f"DEFER_IF_REJECT {deferral.status} {_bare(deferral.text)}"
    return _wish(memory.actions)


def _wish(actions: Actions) -> str:
    """The first of what is to be done with the mail: an answer has room for one."""
    for word, value in (
        ("DISCARD", actions.discard),
        ("HOLD", actions.hold),
        ("REDIRECT", actions.redirect),
        ("FILTER", actions.filter),
        ("PREPEND", actions.prepend[0] if actions.prepend else ""),
        ("BCC", actions.bcc[0] if actions.bcc else ""),
    ):
        if value:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            return f"{word} {text}"
    return "DUNNO"


def _bare(text: str) -> str:
    return _NAMED.sub("", text.replace("\n", " "), count=1)
