"""What access(5) tables want to be done with a mail, done: fields above the others, other
recipients, the hold queue, a content filter.
"""

from __future__ import annotations

from dataclasses import replace

from milterd.core.decision import Reason
from milterd.core.mail import Envelope, HeaderField, Mail, Recipient
from smtpgw.admission import Refusal
from smtpgw.policy.record import NO_ACTIONS, Actions

_NEVER = (b"NOTIFY=NEVER",)
"""Nobody is told what becomes of a copy."""


def with_fields(mail: Mail, actions: Actions) -> Mail:
    """PREPEND: the fields stand above all others, the first on top."""
    if not actions.prepend:
        return mail
    fields = []
    for each in actions.prepend:
        name, _, value = each.partition(b":")
        bare = name.rstrip(b" \t")
        fields.append(HeaderField(bare, value, name[len(bare) :]))
    return replace(mail, headers=(*fields, *mail.headers))


def addressed(mail: Mail, actions: Actions) -> Mail:
    """BCC adds recipients; REDIRECT has one take the place of all."""
    if not (actions.bcc or actions.redirect):
        return mail
    envelope = mail.envelope
    if actions.redirect:
        recipients: tuple[Recipient, ...] = (Recipient(actions.redirect),)
    else:
        recipients = (*envelope.recipients, *(Recipient(each, _NEVER) for each in actions.bcc))
    changed = Envelope(envelope.sender, envelope.sender_args, recipients)
    return replace(mail, envelope=changed)


def filtered(actions: Actions) -> str:
    """FILTER; REDIRECT is stronger."""
    return "" if actions.redirect else actions.filter


def told(actions: Actions) -> tuple[Reason, ...]:
    """Each of them as a reason."""
    if actions is NO_ACTIONS:
        return ()
    found = []
    for outcome, values in (
        ("discard", (actions.discard,)),
        ("hold", (actions.hold,)),
        ("filter", (actions.filter,)),
        ("redirect", (_text(actions.redirect),)),
        ("bcc", tuple(map(_text, actions.bcc))),
        ("prepend", tuple(map(_text, actions.prepend))),
    ):
        found += [Reason("access", outcome, {"text": each}) for each in values if each]
    return tuple(found)


def refused(refusal: Refusal) -> Reason:
    """A refusal of the whole message as a reason."""
    outcome = "rejected" if refusal.reply.code >= 500 else "tempfailed"
    facts = {"list": refusal.listed, "decided": " | ".join(refusal.decided)}
    return Reason(refusal.source, outcome, facts)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")
