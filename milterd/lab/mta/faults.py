"""A milter that fails: late, gone, out of turn, or speaking nonsense."""

from __future__ import annotations

from collections.abc import Sequence

from milterd.lab.conform.check import Check, FailedError
from milterd.lab.mta.check import Trial, require, sound
from milterd.lab.mta.edits import TRACE, compare_fields, taken_apart
from milterd.lab.mta.outcomes import deferred, put_off
from milterd.lab.mta.replies import STAGES
from milterd.lab.server import Answer, Do, Plan, Step, Terms, Wait
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Response
from milterd.wire.frames import frame

_ACTION = "postconf(5), milter_default_action"
_TIMEOUT = "postconf(5), milter_command_timeout"
_CONTENT = "postconf(5), milter_content_timeout"
_WIRE = "libmilter engine.c; Postfix milter8.c"
_WHOLE = "Postfix HISTORY 202608: all edits of a milter or none"

_ADD = m.AddHeaderReply(b"X-Half", b"yes")
_HALF: tuple[Step, ...] = (_ADD, m.ChangeHeaderReply(1, b"Subject", b"half"), Do.CLOSE)
_BAD_EDITS: dict[str, bytes] = {
    "no final NUL": frame(Response.ADD_HEADER, b"X-Half\0yes"),
    "no value": frame(Response.ADD_HEADER, b"X-Half\0"),
    "octets after the value": frame(Response.ADD_HEADER, b"X-Half\0yes\0more"),
    "half an index": frame(Response.INSERT_HEADER, b"\0\0"),
    "no address": frame(Response.ADD_RCPT, b""),
}


def _failed(name: str, title: str, rule: str, source: str, plan: Plan) -> Check:
    async def run(trial: Trial) -> str:
        return await deferred(trial, plan)

    return Check(f"fault/{name}", title, rule, source, run)


def _raw(name: str, title: str, octets: bytes, at: str = "mail") -> Check:
    rule = "The milter counts as failed, and the mail is put off."
    return _failed(name, title, rule, _WIRE, Plan({STAGES[at][0]: octets}))


def _closed(stage: str) -> Check:
    return _failed(
        f"close-at-{stage}",
        f"The milter closes at {stage}",
        "Without an answer the default action holds: the mail is put off.",
        _ACTION,
        Plan({STAGES[stage][0]: Do.CLOSE}),
    )


async def _silent_mail(trial: Trial) -> str:
    return await deferred(trial, Plan({m.MailFrom: Do.SILENCE}))


async def _silent_end(trial: Trial) -> str:
    return await deferred(trial, Plan({m.EndOfMessage: Do.SILENCE}))


async def _silent_after_progress(trial: Trial) -> str:
    steps: Answer = [m.Progress(), Do.SILENCE]
    return await deferred(trial, Plan({m.EndOfMessage: steps}))


async def _late(trial: Trial) -> str:
    steps: list[Step] = [Wait(trial.site.command + 1), m.Reject()]
    async with trial.session(Plan({m.MailFrom: steps})) as session:
        told = await session.send()
        put_off(told)
        again = await session.send()
        await session.quit()
    require(again.taken or again.last.kind == 4, f"the next mail: {again}")
    return f"{told}; the next mail in the session: {again}"


async def _twice(trial: Trial) -> str:
    both = m.Continue().encode() + m.ReplyCode(b"554 5.7.9 not asked").encode()
    told, _ = await trial.send(Plan({m.MailFrom: both}))
    return _not_taken_for_another(told.taken, told.last.kind, str(told))


def _not_taken_for_another(taken: bool, kind: int, seen: str) -> str:
    if not taken and kind != 4:
        raise FailedError(f"taken for the answer to the next event: {seen}")
    return seen


async def _early_edit(trial: Trial) -> str:
    told, _ = await trial.send(Plan({m.MailFrom: [_ADD, m.Continue()]}))
    if not told.taken:
        put_off(told)
        return str(told)
    mail = await trial.delivered_once()
    require(b"X-Half" not in mail.octets, "the edit was made")
    return "taken, without the edit"


async def _malformed_edit(trial: Trial) -> str:
    seen = []
    for what, octets in _BAD_EDITS.items():
        trial.remark()
        told, _ = await trial.send(Plan({m.EndOfMessage: [_ADD, octets, m.Continue()]}))
        require(told.last.kind == 4, f"{what}: {told}")
        seen.append(str(told))
    await trial.nothing(needed=False)
    return "; ".join(dict.fromkeys(seen))


async def _unnegotiated(trial: Trial) -> str:
    terms = Terms(actions=Actions.NONE)
    told, _ = await trial.send(Plan({m.EndOfMessage: [_ADD, m.Continue()]}, terms))
    if not told.taken:
        put_off(told)
        return str(told)
    mail = await trial.delivered_once()
    made = b"X-Half: yes" in mail.octets
    return "taken, and the edit made" if made else "taken, without the edit"


async def _torn_body(trial: Trial) -> str:
    steps: list[Step] = [m.ReplaceBodyChunk(b"one\r\n"), _ADD, m.ReplaceBodyChunk(b"two\r\n")]
    told, _ = await trial.send(Plan({m.EndOfMessage: [*steps, m.Continue()]}))
    if not told.taken:
        put_off(told)
        await trial.nothing(needed=False)
        return str(told)
    mail = await trial.delivered_once()
    require(taken_apart(trial, mail).body == b"one\r\ntwo\r\n", "taken, with half the body")
    return "taken, with both pieces"


async def _recovers(trial: Trial) -> str:
    told, _ = await trial.send(Plan({m.MailFrom: Do.CLOSE}))
    put_off(told)
    trial.remark()
    told, heard = await trial.send()
    sound(heard)
    require(told.taken, f"the next session: {told}")
    require(heard.of(m.EndOfMessage), "the milter was not asked in the next session")
    return "the next session's mail is shown and taken"


async def _down(trial: Trial) -> str:
    trial.milter.shut()
    try:
        told, _ = await trial.send()
    finally:
        await trial.milter.open()
    put_off(told)
    await trial.nothing(needed=False)
    return str(told)


# --- the same with a default action of accept ---


def _accepting(name: str, title: str, rule: str, source: str, answers: Plan) -> Check:
    async def run(trial: Trial) -> str:
        return await _unedited(trial, answers)

    return Check(f"accepting/{name}", title, rule, source, run)


async def _unedited(trial: Trial, plan: Plan) -> str:
    told, _ = await trial.send(plan, accepting=True)
    require(told.taken, str(told))
    mail = await trial.delivered_once()
    found = taken_apart(trial, mail)
    compare_fields(found.fields, [TRACE, *trial.fields])
    require(found.body == trial.body, "the body changed")
    return "taken, and delivered as it came"


async def _accepting_down(trial: Trial) -> str:
    if trial.site.accepting is None:
        return await _unedited(trial, Plan())
    trial.milter.shut()
    try:
        return await _unedited(trial, Plan())
    finally:
        await trial.milter.open()


def _at_end(*steps: Step) -> Plan:
    return Plan({m.EndOfMessage: steps})


_PASSES = "The default action accept lets the mail pass as it came."
_NONE_OF_IT = "Edits of a milter that failed are not made: all of them or none."

ACCEPTING: Sequence[Check] = (
    _accepting("close-at-mail", "The milter closes at MAIL", _PASSES, _ACTION,
               Plan({m.MailFrom: Do.CLOSE})),
    _accepting("close-at-body", "The milter closes in the body", _PASSES, _ACTION,
               Plan({m.BodyChunk: Do.CLOSE})),
    _accepting("silence-at-eom", "The milter is silent at eom", _PASSES, _CONTENT,
               _at_end(Do.SILENCE)),
    _accepting("lost-in-edits", "The milter closes after two edits", _NONE_OF_IT, _WHOLE,
               _at_end(*_HALF)),
    _accepting("lost-in-body", "The milter closes within a new body", _NONE_OF_IT, _WHOLE,
               _at_end(m.ReplaceBodyChunk(b"half\r\n"), Do.CLOSE)),
    _accepting("silent-in-edits", "The milter is silent after an edit", _NONE_OF_IT, _WHOLE,
               _at_end(_ADD, Do.SILENCE)),
    _accepting("malformed-in-edits", "A malformed edit after a good one", _NONE_OF_IT, _WHOLE,
               _at_end(_ADD, _BAD_EDITS["no value"], m.Continue())),
    _accepting("garbage-in-edits", "Garbage after an edit", _NONE_OF_IT, _WHOLE,
               _at_end(_ADD, frame(b"Z"))),
    Check("accepting/down", "No milter there", _PASSES, _ACTION, _accepting_down, last=True),
)  # fmt: skip

CHECKS = (
    *(_closed(stage) for stage in STAGES),
    Check(
        "fault/silence-at-mail",
        "The milter is silent at MAIL",
        "After the command timeout the default action holds.",
        _TIMEOUT,
        _silent_mail,
    ),
    Check(
        "fault/silence-at-eom",
        "The milter is silent at eom",
        "After the content timeout the default action holds.",
        _CONTENT,
        _silent_end,
    ),
    Check(
        "fault/silence-after-progress",
        "Progress once, then silence",
        "Progress starts the limit anew, and does not end it.",
        _CONTENT,
        _silent_after_progress,
    ),
    Check(
        "fault/late",
        "An answer after the limit",
        "The mail is put off, and the answer is not taken for that of a later event.",
        _TIMEOUT,
        _late,
    ),
    _raw("garbage", "A packet of no known kind", frame(b"Z")),
    _raw("garbage-at-eom", "A packet of no known kind at eom", frame(b"Z"), "eom"),
    _raw("oversize", "A packet of 2 GB", b"\x7f\xff\xff\xffc"),
    _raw("empty", "A packet of length 0", b"\0\0\0\0"),
    _failed(
        "half-packet",
        "Half a packet, then the end",
        "The milter counts as failed, and the mail is put off.",
        _WIRE,
        Plan({m.MailFrom: [b"\0\0\0\x05y55", Do.CLOSE]}),
    ),
    _raw("trailing", "Continue with octets after it", frame(Response.CONTINUE, b"more")),
    Check(
        "fault/twice",
        "Two answers to one event",
        "The second is not taken for the answer to another event.",
        _WIRE,
        _twice,
    ),
    Check(
        "fault/early-edit",
        "An edit before the end of message",
        "It is not made.",
        "libmilter, xxfi_eom; Postfix milter8.c",
        _early_edit,
    ),
    Check(
        "fault/malformed-edit",
        "Malformed edits",
        "The milter counts as failed; nothing is edited or delivered.",
        _WIRE,
        _malformed_edit,
    ),
    Check(
        "fault/unnegotiated-edit",
        "An edit that was not negotiated",
        "It is made or left out, or the mail is put off; the mail is not lost.",
        "libmilter, smfi_addheader; Sendmail milter.c; Postfix milter8.c",
        _unnegotiated,
    ),
    Check(
        "fault/torn-body",
        "Another edit between two pieces of a new body",
        "The body is whole, or the mail is put off.",
        "Postfix cleanup_milter.c",
        _torn_body,
    ),
    _failed(
        "lost-in-edits",
        "The milter closes after two edits",
        "The mail is put off, and nothing of it delivered.",
        _ACTION,
        Plan({m.EndOfMessage: _HALF}),
    ),
    Check(
        "fault/recovery",
        "The session after a failure",
        "A failed milter is asked again in the next session.",
        "Postfix MILTER_README",
        _recovers,
    ),
    Check(
        "fault/down",
        "No milter there",
        "The default action holds: the mail is put off.",
        _ACTION,
        _down,
        last=True,
    ),
    *ACCEPTING,
)
