"""access(5): what a table's value, or a policy service's answer, asks for.

    OK  12345  REJECT text  DEFER text  4NN text  5NN text  DEFER_IF_PERMIT text  DUNNO
    DEFER_IF_REJECT text  HOLD text  DISCARD text  FILTER transport:nexthop  REDIRECT u@d
    BCC u@d  PREPEND field: value  WARN text  INFO text  restriction...

What is asked for of the mail as a whole is kept in :class:`smtpgw.policy.record.Actions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.policy import text as words
from smtpgw.policy.facts import State
from smtpgw.policy.record import Outcome
from smtpgw.policy.run import Run

CONFIGURATION_ERROR = "451 4.3.5 Server configuration error"
"""What a table that cannot answer comes to."""
_FIELD = re.compile(r"[!-9;-~]+[ \t]*:")
_WORD = re.compile(r"([^ \t]*)[ \t]*(.*)", re.DOTALL)
_CODE = re.compile(r"[45][0-9]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was looked up: its name in replies, and what it is (:mod:`smtpgw.policy.text`)."""

    name: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Said:
    """A value: its first word in upper case, and the text behind it."""

    word: str
    text: str
    value: str


async def result(run: Run, subject: Subject, value: bytes | str) -> Outcome:
    """What a value says of a subject.  Raises Failed for one that means nothing."""
    said = _said(value)
    action = _ACTIONS.get(said.word)
    if action is not None:
        return action(run, subject, said)
    if said.value.isascii() and said.value.isdigit():
        return Outcome.PERMIT
    if said.text and _CODE.fullmatch(said.word):
        default = f"{said.word[0]}.7.1"
        return _no(run, subject, int(said.word), default, said.text)
    if ":" in said.value:
        raise run.misconfigured(f"{said.value!r} names a table: name a restriction class instead")
    return await run.named(said.value, subject.name, subject.what)


def _said(value: bytes | str) -> Said:
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    match = _WORD.match(text)
    assert match is not None  # noqa: S101 - the pattern fits everything
    return Said(match[1].upper(), match[2].lstrip(), text)


_Action = Callable[[Run, Subject, Said], Outcome]


def _permit(_run: Run, _subject: Subject, _said: Said) -> Outcome:
    return Outcome.PERMIT


def _dunno(_run: Run, _subject: Subject, _said: Said) -> Outcome:
    return Outcome.DUNNO


def _reject(run: Run, subject: Subject, said: Said) -> Outcome:
    return _no(run, subject, run.options.access_map_reject_code, "5.7.1", said.text)


def _defer(run: Run, subject: Subject, said: Said) -> Outcome:
    return _no(run, subject, run.options.access_map_defer_code, "4.7.1", said.text)


def _no(run: Run, subject: Subject, code: int, default: str, text: str) -> Outcome:
    status, text = _status(default, text, subject)
    return run.refused(subject.name, subject.what, code, status, text or "Access denied")


def _status(default: str, text: str, subject: Subject) -> tuple[str, str]:
    status, text = words.split_status(default, text)
    return words.fitting(status, subject.what), text


def _defer_if_permit(run: Run, subject: Subject, said: Said) -> Outcome:
    status, text = _status("4.7.1", said.text, subject)
    text = _unavailable(subject, text)
    return run.defer_if_permit(run.options.access_map_defer_code, status, text)


def _defer_if_reject(run: Run, subject: Subject, said: Said) -> Outcome:
    status, text = _status("4.7.1", said.text, subject)
    text = _unavailable(subject, text)
    return run.defer_if_reject(run.options.access_map_defer_code, status, text)


def _unavailable(subject: Subject, text: str) -> str:
    return (
        f"<{words.shown(subject.name)}>: {subject.what} rejected: {text or 'Service unavailable'}"
    )


def _tell(run: Run, _subject: Subject, said: Said) -> Outcome:
    """INFO and WARN: a line in the log, and in the record."""
    run.note(said.word.lower(), said.text)
    return Outcome.DUNNO


# -- what is to be done with the mail -----------------------------------------------------


def _mail(run: Run, said: Said) -> bool:
    """Whether there is a mail that anything could be done with."""
    if run.facts.state is State.ETRN:
        run.note("skipped", f"{said.word} is for mail, and ETRN brings none")
        return False
    if run.facts.sender is None:
        run.note("skipped", f"{said.word} before MAIL: smtpd_delay_reject is off")
        return False
    return True


def _hold(run: Run, _subject: Subject, said: Said) -> Outcome:
    if _mail(run, said) and not run.memory.actions.hold:
        run.act("hold", hold=said.text or "triggers HOLD action")
    return Outcome.DUNNO


def _discard(run: Run, _subject: Subject, said: Said) -> Outcome:
    if not _mail(run, said):
        return Outcome.DUNNO
    run.act("discard", discard=said.text or "triggers DISCARD action")
    return Outcome.PERMIT


def _filter(run: Run, _subject: Subject, said: Said) -> Outcome:
    if _mail(run, said) and _has(run, said, ":", "FILTER transport:nexthop"):
        run.act("filter", filter=said.text)
    return Outcome.DUNNO


def _redirect(run: Run, _subject: Subject, said: Said) -> Outcome:
    if _mail(run, said) and _has(run, said, "@", "REDIRECT user@domain"):
        run.act("redirect", redirect=said.text.encode())
    return Outcome.DUNNO


def _bcc(run: Run, _subject: Subject, said: Said) -> Outcome:
    if _mail(run, said) and _has(run, said, "@", "BCC user@domain"):
        run.act("bcc", bcc=(*run.memory.actions.bcc, said.text.encode()))
    return Outcome.DUNNO


def _prepend(run: Run, _subject: Subject, said: Said) -> Outcome:
    if run.facts.sender is None:
        run.note("skipped", "PREPEND before MAIL: smtpd_delay_reject is off")
    elif run.facts.state is State.END_OF_MESSAGE:
        run.note("skipped", "PREPEND once the header is here")
    elif _FIELD.match(said.text) is None:
        run.note("skipped", f"{said.value!r}, expected PREPEND field: value")
    else:
        field = words.printable(said.text).encode()
        run.act("prepend", prepend=(*run.memory.actions.prepend, field))
    return Outcome.DUNNO


def _has(run: Run, said: Said, sign: str, expected: str) -> bool:
    if sign in said.text:
        return True
    run.note("skipped", f"{said.value!r}, expected {expected}")
    return False


_ACTIONS: dict[str, _Action] = {
    "OK": _permit,
    "RELAY": _permit,
    "DUNNO": _dunno,
    "REJECT": _reject,
    "DEFER": _defer,
    "DEFER_IF_PERMIT": _defer_if_permit,
    "DEFER_IF_REJECT": _defer_if_reject,
    "INFO": _tell,
    "WARN": _tell,
    "HOLD": _hold,
    "DISCARD": _discard,
    "FILTER": _filter,
    "REDIRECT": _redirect,
    "BCC": _bcc,
    "PREPEND": _prepend,
}
