"""Where we differ from Postfix with a reason: the rows of docs/restrictions-differences.md, each
with the rule that knows it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.reception.talk import CLOSED, Said


@dataclass(frozen=True)
class Difference:
    """A command of a dialogue and what it was answered here and there; `settings` are those of the
    service, with the tables and classes that its lists name; `dotted` says that the sender's domain
    ends in a dot."""

    command: str
    ours: Said
    theirs: Said
    settings: Mapping[str, str]
    dotted: bool = False


def _no_domain(one: Difference) -> bool:
    address = one.command.partition("<")[2].rpartition(">")[0]
    return "@" not in address and one.ours.text.partition(" ")[2].startswith("Address lacks")


def _helo_name(one: Difference) -> bool:
    return one.command.startswith(("HELO ", "EHLO ")) and "Syntax: EHLO" in one.ours.text


def _enhanced(one: Difference) -> bool:
    return one.ours.code == one.theirs.code and not one.theirs.enhanced


def _vrfy(one: Difference) -> bool:
    whole = " ".join(one.settings.values())
    return one.command.startswith("VRFY") and one.theirs.code == 252 and "DISCARD" in whole


_DENIED = ((503, "5.7.0"), (403, "4.7.0"))
"""The second with soft_bounce."""


def _data_refused(one: Difference) -> bool:
    return one.command.startswith("MAIL") and "nested MAIL" in one.theirs.text


def _refused_at_once(one: Difference) -> bool:
    return one.ours.codes == CLOSED.codes and one.theirs.codes in _DENIED


def _looked_at_before(one: Difference) -> bool:
    """Where a client or helo list may ask for the sender."""
    early = one.settings["smtpd_client_restrictions"] + one.settings["smtpd_helo_restrictions"]
    told = re.search(r"Sender address rejected: (User unknown|undeliverable)", one.ours.text)
    return told is not None and "reject_unlisted_sender" in early


_SERVERS = ("check_sender_a_access", "check_sender_mx_access", "check_sender_ns_access")


def _dot_at_the_end(one: Difference) -> bool:
    """The sender's, wherever his domain's hosts are asked for."""
    told = re.search(r"<\S+@good\.example>: Sender address rejected", one.ours.text)
    whole = " ".join(one.settings.values())
    return one.dotted and told is not None and any(each in whole for each in _SERVERS)


RULES: Mapping[str, Callable[[Difference], bool]] = {
    "an address without a domain": _no_domain,
    "a HELO name that is none": _helo_name,
    "an enhanced code where Postfix gives none": _enhanced,
    "VRFY beside a mail that is discarded": _vrfy,
    "a mail whose DATA is refused is over": _data_refused,
    "a client refused at once is let go": _refused_at_once,
    "a sender that another session has asked for": _looked_at_before,
    "a sender's domain with a dot at its end": _dot_at_the_end,
}
"""By the first words of the row in the document."""


def why(one: Difference) -> str:
    """The name of the difference; empty for one that has no reason."""
    return next((name for name, rule in RULES.items() if rule(one)), "")
