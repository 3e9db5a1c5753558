"""The human part: what happened to whom, in whose words, and what can be done about it."""

from __future__ import annotations

import textwrap

from smtpgw.dsn import fields
from smtpgw.dsn.advice import advice
from smtpgw.dsn.report import Action, DsnOptions, Letter, News, Report, Reported
from smtpgw.dsn.text import TOKEN, WIDTH, one_line

SHARE = 100
"""Recipients that are told of one by one; the machine's part has all."""

SUBJECTS = {
    News.FAILURE: b"Undelivered Mail Returned to Sender",
    News.DELAY: b"Delayed Mail (still being retried)",
    News.SUCCESS: b"Successful Mail Delivery Report",
    News.CLEARED: b"Delayed Mail Has Been Delivered",
    News.RESOURCE: b"Postmaster Warning: Out of Resources",
    News.SOFTWARE: b"Postmaster Warning: Internal Error",
}
COPIES = {
    News.FAILURE: b"Postmaster Copy: Undelivered Mail",
    News.DELAY: b"Postmaster Warning: Delayed Mail",
}
"""Subjects are Postfix's (bounce(5)) where it has one."""

_OPENINGS = {
    News.FAILURE: "Your message could not be delivered to the recipients below, and no further"
    " attempt will be made. What is known of the cause stands beside each; the message, or"
    " its header, is attached.",
    News.DELAY: "Your message has not been delivered to the recipients below yet. You need not"
    " do anything, and need not send it again: delivery will be tried until {until}.",
    News.SUCCESS: "You asked to be told what became of your message.",
    News.CLEARED: "You were told that your message was delayed. It has now got through to the"
    " recipients below.",
    News.RESOURCE: "The gateway lacks the means to deliver the mail below: room on a disk,"
    " descriptors, memory. The mail is kept and will be tried again until {until}.",
    News.SOFTWARE: "The gateway failed in its own part with the mail below. The mail is kept"
    " and will be tried again until {until}; the log says more.",
}
_COPY = (
    "This is a copy for the postmaster. The sender was <{sender}>. What follows is what the"
    " sender was told, or would have been."
)
_NO_SENDER = "This is for the postmaster: the mail has no sender to whom it could be returned."

_DONE = {
    Action.DELIVERED: "was delivered.",
    Action.RELAYED: "was handed over to a mail system that will not report about its delivery.",
    Action.EXPANDED: "is a list of addresses; your message was passed on to them, and there will"
    " be no report about each.",
}


def text(report: Report, letter: Letter, options: DsnOptions) -> str:
    """The part's text, lines ended by LF."""
    until = "" if report.retry_until is None else fields.date(report.retry_until)
    paragraphs = [f"This is the mail system at {options.myhostname}."]
    if letter.copy:
        intro = _COPY.format(sender=one_line(report.sender, 320)) if report.sender else _NO_SENDER
        paragraphs.append(intro)
    paragraphs.append(_OPENINGS[letter.news].format(until=until))
    lines = ["\n\n".join(_wrapped(each) for each in paragraphs)]
    lines += [_of_recipient(each) for each in report.recipients[:SHARE]]
    if len(report.recipients) > SHARE:
        lines.append(f"... and {len(report.recipients) - SHARE} more, listed in the next part.")
    lines.append(
        _wrapped(
            f"For help, write to <postmaster@{options.myhostname}> with the id {report.queue_id}."
        )
    )
    return "\n\n".join(lines) + "\n"


def _of_recipient(each: Reported) -> str:
    address = f"<{one_line(each.address, 320)}>"
    if each.action in _DONE:
        return _wrapped(f"{address} {_DONE[each.action]}")
    said = f"{one_line(each.remote, 255) or 'the receiving system'} said: " if each.spoken else ""
    what = " ".join(one_line(each.text, TOKEN).split()) or "no reason is known"
    parts = [f"{address}:", _wrapped(said + what, "    ")]
    return "\n".join([*parts, _wrapped(advice(each), "    ")])


def _wrapped(paragraph: str, indent: str = "") -> str:
    return textwrap.fill(
        paragraph,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
