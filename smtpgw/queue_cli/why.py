"""Why a mail is still here: nothing waits without a reason that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from milterd.base.escaping import escape
from smtpgw.queue.states import MailState
from smtpgw.queue.store import QueuedMail, Rest
from smtpgw.queue_cli.common import moment

_WAIT = (MailState.INCOMING, MailState.DEFERRED)
Rests = Mapping[str, Rest]


@dataclass(frozen=True, slots=True)
class Why:
    """`text` is the mail's reason, empty where its recipients have their own or where it is
    in delivery; `until` is when the destination's rest ends, if it rests."""

    text: str
    until: float | None = None


def by_site(rests: Iterable[Rest]) -> Rests:
    """Rests by destination; the longest, where several parts of the queue have one."""
    found: dict[str, Rest] = {}
    for each in rests:
        if each.site not in found or each.until > found[each.site].until:
            found[each.site] = each
    return found


def why(mail: QueuedMail, rests: Rests, now: float) -> Why:
    """The reason, safe to show."""
    if mail.note:
        return Why(escape(mail.note))
    if mail.doomed:
        return Why(f"to be bounced: {escape(mail.doomed)}")
    rest = rests.get(mail.site) if mail.site and mail.state in _WAIT else None
    if rest is not None:
        said = escape(f"{mail.site} rests until {moment(rest.until)}: {rest.note}")
        return Why(said, rest.until)
    if mail.state not in _WAIT or any(each.text for each in mail.open):
        return Why("")
    if mail.due is not None and mail.due > now:
        return Why(f"waits until {moment(mail.due)}")
    return Why("waits for its turn")


def reason(mail: QueuedMail, found: Why) -> str:
    """One reason: the mail's, or the first that a recipient has."""
    return found.text or escape(next((each.text for each in mail.open if each.text), ""))
