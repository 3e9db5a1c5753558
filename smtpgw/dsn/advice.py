"""What to do about it, in plain words, by enhanced status code (RFC 3463 and its registry)."""

from __future__ import annotations

from smtpgw.dsn.report import Action, Reported

_NO_USER = "There is no such address. Check its spelling, or ask the recipient for the right one."
_NO_DOMAIN = "Nobody takes mail for what stands after the @. Check its spelling."
_BAD_SENDER = (
    "The recipient's system does not take mail from your address. Check that it is right, and"
    " ask your own mail provider."
)
_DISABLED = "The mailbox takes no mail now. Ask the recipient in another way."
_FULL = "The mailbox is full. The recipient has to make room; then send your message again."
_SIZE = "The message is too large. Send it without large attachments, or in several parts."
_SYSTEM = "The recipient's system has a problem of its own. Send your message again later."
_NO_ANSWER = "The recipient's system could not be reached. Send your message again later."
_LOOP = "The mail goes round in a circle between mail systems. The recipient's postmaster can help."
_EXPIRED = (
    "It was tried again and again until its time was up. If the reason above is over, send your"
    " message again."
)
_PROTOCOL = "The two mail systems do not understand each other. The postmaster below can help."
_CONTENT = "The message has a form that the recipient's system cannot take. Send it as plain text."
_UTF8 = (
    "The recipient's system does not take addresses or headers with letters other than ASCII's."
    " Use an address in plain letters if there is one."
)
_POLICY = (
    "The recipient's system refuses this message by its rules. What it said above may name the"
    " rule; the recipient or the postmaster there can make an exception."
)
_AUTH = (
    "The recipient's system could not make sure that the message is really from your domain"
    " (SPF, DKIM or DMARC). Send it through your own provider's mail system, or tell its"
    " postmaster."
)
_TLS = (
    "The message was to travel encrypted or not at all, and no secure connection could be made."
    " The postmaster below can help."
)
_UNKNOWN = "If what stands above does not help, ask the postmaster below."
_WAIT = "This is tried again without your doing."

_WORDS = {
    "1": _NO_USER, "1.2": _NO_DOMAIN, "1.7": _BAD_SENDER, "1.8": _BAD_SENDER,
    "1.10": "The recipient's domain says that it takes no mail. Check its spelling.",
    "2": _DISABLED, "2.2": _FULL, "2.3": _SIZE, "2.4": _LOOP,
    "3": _SYSTEM, "3.1": _FULL, "3.4": _SIZE,
    "4": _NO_ANSWER, "4.4": _NO_DOMAIN, "4.6": _LOOP, "4.7": _EXPIRED,
    "5": _PROTOCOL, "5.3": "The message has too many recipients. Send it to fewer at a time.",
    "6": _CONTENT, "6.7": _UTF8, "6.9": _UTF8, "6.10": _UTF8,
    "7": _POLICY, "7.4": _TLS, "7.5": _TLS, "7.10": _TLS, "7.11": _TLS, "7.30": _TLS,
    **{f"7.{each}": _AUTH for each in range(20, 28)},
}  # fmt: skip
"""By subject and detail; the subject alone stands for its other details."""


def advice(each: Reported) -> str:
    """One or two sentences for the sender of a mail that failed or is late."""
    if each.action is Action.DELAYED:
        return _WAIT
    _, _, rest = each.enhanced.partition(".")
    return _WORDS.get(rest) or _WORDS.get(rest.partition(".")[0]) or _UNKNOWN
