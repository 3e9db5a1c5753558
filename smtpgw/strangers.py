"""What a client hears at RCPT as far as the addresses alone decide it, for `smtpgw route`.

Restrictions about the client, its HELO and the name service are left out: who will come, and from
where, nobody knows here.
"""

from __future__ import annotations

from dataclasses import replace

from milterd.core.mail import Client, Family
from smtpgw.admission import BAD_RECIPIENT, Refusal, refusal_of
from smtpgw.policy.engine import Policy, Review
from smtpgw.policy.facts import Facts, State
from smtpgw.policy.ports import Ports
from smtpgw.policy.run import Rules

_BY_ADDRESS = frozenset({
    "permit", "reject", "defer", "permit_mynetworks", "permit_sasl_authenticated",
    "permit_auth_destination", "reject_unauth_destination", "defer_unauth_destination",
    "check_sender_access", "check_recipient_access", "reject_unlisted_sender",
    "reject_unlisted_recipient", "reject_non_fqdn_sender", "reject_non_fqdn_recipient",
})  # fmt: skip
_LISTS = ("smtpd_sender_restrictions", "smtpd_relay_restrictions", "smtpd_recipient_restrictions")


class Strangers:
    """Asks a listener's lists."""

    def __init__(self, policy: Policy) -> None:
        lists = {name: _kept(policy.lists.get(name, ())) for name in _LISTS}
        options = replace(policy.options, smtpd_delay_reject=True)
        self._policy = Policy(options, policy.site, lists, policy.parser)

    async def told(self, recipient: bytes, sender: bytes, *, own: bool) -> Refusal | None:
        """Why a client, one of ours or a stranger, may not have a recipient.  Internal addresses.
        Raises Unavailable."""
        if recipient.lower() != b"postmaster" and await self._policy.site.resolver.wrong(recipient):
            return Refusal("syntax", BAD_RECIPIENT)
        client = Client(family=Family.UNIX if own else Family.UNKNOWN)
        facts = Facts(client, state=State.RCPT, sender=sender, recipient=recipient)
        return refusal_of(await Review(self._policy, Ports()).rcpt(facts))


def _kept(rules: Rules) -> Rules:
    found = []
    for each in rules:
        if each.rules:
            found.append(replace(each, rules=_kept(each.rules)))
        elif each.name in _BY_ADDRESS:
            found.append(each)
    return tuple(found)
