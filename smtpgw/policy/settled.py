"""Decisions at RCPT that hold for more than one mail, as long as no table says otherwise.

Where every restriction that is asked for a recipient is a settled one (:mod:`registry`), the same
sender and recipient of the same client come to the same answer, in this session or in another.
Only what lets pass is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from milterd.core.mail import Family
from smtpgw.address.remembered import Changes, watched
from smtpgw.edge.road import Login
from smtpgw.policy import registry
from smtpgw.policy.options import PolicyOptions, Site
from smtpgw.policy.record import Record
from smtpgw.policy.run import Rules

MOST = 1000
"""Decisions that are kept for each listener."""

Who = tuple[Family, bytes, bytes, str | None, Login | None, bytes | None, bool]
"""All of a session that settled restrictions go by: the client's family and address, ours, what put
the client into mynetworks (None: not known yet), its login, its name in EHLO or HELO and whether it
was EHLO."""
Key = tuple[Who, bytes | None, bytes]
"""The same with sender and recipient."""

_LISTS = (
    "smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions",
    "smtpd_relay_restrictions", "smtpd_recipient_restrictions",
)  # fmt: skip
"""What is asked at RCPT."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A recipient who was let pass: what was asked, and whose addresses were looked at then."""

    record: Record
    sender_listed: bool
    recipient_listed: bool


def watching(
    options: PolicyOptions, site: Site, lists: Mapping[str, Rules]
) -> tuple[Changes, ...] | None:
    """What to look at to know that decisions at RCPT still hold; None where none is to be kept."""
    # Without smtpd_delay_reject, what earlier commands have put off counts here too.
    if not options.smtpd_delay_reject or not all(_settled(lists.get(each, ())) for each in _LISTS):
        return None
    return watched((site.resolver, site.recipients, site.senders, site.mynetworks))


def _settled(rules: Rules) -> bool:
    return all(_settled(rule.rules) if rule.rules else _alone(rule.name) for rule in rules)


def _alone(name: str) -> bool:
    found = registry.find(name)
    return found is not None and found.settled


def untimed(record: Record) -> Record:
    """The same, of which nothing took any time."""
    return Record([(*row[:-1], 0.0) for row in record.rows], record.limit)
