"""A milter's answers at every stage: what the SMTP client hears, and what comes after."""

from __future__ import annotations

from milterd.lab.conform.check import Check, FailedError
from milterd.lab.mta.check import Trial, joined, require, sound
from milterd.lab.mta.outcomes import deferred, put_off
from milterd.lab.mta.shown import BIG
from milterd.lab.mta.smtp import Said, Told
from milterd.lab.server import Plan, Step, Terms, Wait
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.states import CommandType

STAGES: dict[str, tuple[CommandType, str]] = {
    "connect": (m.Connect, "mail"),
    "helo": (m.Helo, "mail"),
    "mail": (m.MailFrom, "mail"),
    "rcpt": (m.RcptTo, "rcpt"),
    "data": (m.Data, "data"),
    "header": (m.Header, "end"),
    "eoh": (m.EndOfHeaders, "end"),
    "body": (m.BodyChunk, "end"),
    "eom": (m.EndOfMessage, "end"),
}
"""Each stage's event, and the SMTP step at which its refusal is heard."""
SESSION = ("connect", "helo")
_STEPS = ("connect", "helo", "mail", "rcpt", "data", "end")
_TEXT = m.ReplyCode(b"554 5.7.9 the lab says no")
_SETREPLY = "libmilter, smfi_setreply"


def _in_place(stage: str, told: Told) -> bool:
    """Whether the refusal came where it should; one of the session may come sooner."""
    step = STAGES[stage][1]
    if stage in SESSION:
        return _STEPS.index(told.last_step) <= _STEPS.index(step)
    return told.last_step == step


def _refusals(stage: str) -> Check:
    kind = STAGES[stage][0]

    async def run(trial: Trial) -> str:
        seen = []
        for reply, digit in ((m.Reject(), 5), (m.TempFail(), 4), (_TEXT, 5)):
            trial.remark()
            told, heard = await trial.send(Plan({kind: reply}))
            sound(heard)
            right = told.last.kind == digit and _in_place(stage, told)
            require(right, f"{type(reply).__name__}: {told}")
            if stage in SESSION:
                require("MailFrom" not in heard.kinds(), "MAIL shown after the refusal")
            elif reply is _TEXT:
                wanted = Said(554, ("5.7.9 the lab says no",))
                require(told.last == wanted, f"the milter's text became {told}")
            seen.append(str(told))
        await trial.nothing(needed=False)
        return "; ".join(seen)

    where = "at MAIL at the latest" if stage in SESSION else "at that step"
    return Check(
        f"refuse/{stage}",
        f"Reject, TempFail and a text at {stage}",
        f"The client is refused {where}, for good or for now, and nothing is delivered.",
        "libmilter, xxfi_ return values; Postfix milter8.c",
        run,
    )


def _accept(stage: str) -> Check:
    kind = STAGES[stage][0]

    async def run(trial: Trial) -> str:
        async with trial.session(Plan({kind: m.Accept()})) as session:
            told = [await session.send(), await session.send()]
            heard = await session.quit()
        sound(heard)
        require(all(each.taken for each in told), "; ".join(str(each) for each in told))
        mails = len(heard.of(m.MailFrom))
        wanted = 0 if stage in SESSION else 2
        require(mails == wanted, f"{mails} of 2 mails shown")
        return "both mails taken, " + ("neither shown" if stage in SESSION else "both shown so far")

    scope = "the session" if stage in SESSION else "this mail"
    return Check(
        f"accept/{stage}",
        f"Accept at {stage}",
        f"The milter is asked no more about {scope}, and the mail goes on.",
        "libmilter, SMFIS_ACCEPT",
        run,
    )


def _discard(stage: str) -> Check:
    kind = STAGES[stage][0]

    async def run(trial: Trial) -> str:
        told, heard = await trial.send(Plan({kind: m.Discard()}))
        sound(heard)
        require(told.taken, str(told))
        await trial.nothing()
        return f"{told}, nothing delivered"

    return Check(
        f"discard/{stage}",
        f"Discard at {stage}",
        "The client is told yes, and the mail is not delivered.",
        "libmilter, SMFIS_DISCARD",
        run,
    )


async def _discard_session(trial: Trial) -> str:
    seen = []
    for kind in (m.Connect, m.Helo):
        trial.remark()
        told, _ = await trial.send(Plan({kind: m.Discard()}))
        if told.taken:
            await trial.delivered()
            seen.append("delivered")
        else:
            put_off(told)
            seen.append(str(told))
    return "; ".join(seen)


async def _lines(trial: Trial) -> str:
    text = b"550-5.7.1 first line\r\n550 5.7.1 second line"
    told, heard = await trial.send(Plan({m.MailFrom: m.ReplyCode(text)}))
    sound(heard)
    wanted = Said(550, ("5.7.1 first line", "5.7.1 second line"))
    require(told.last == wanted, str(told))
    return str(told)


async def _percent(trial: Trial) -> str:
    told, heard = await trial.send(Plan({m.MailFrom: m.ReplyCode(b"550 5.7.1 100%% sure")}))
    sound(heard)
    require(told.last == Said(550, ("5.7.1 100% sure",)), str(told))
    return str(told)


async def _no_enhanced(trial: Trial) -> str:
    told, heard = await trial.send(Plan({m.RcptTo: m.ReplyCode(b"452 too many")}))
    sound(heard)
    last = told.last
    require(last.code == 452 and last.lines[0].endswith("too many"), str(told))
    return str(told)


def _hang_up(name: str, title: str, kind: CommandType, reply: m.Reply) -> Check:
    async def run(trial: Trial) -> str:
        async with trial.session(Plan({kind: reply})) as session:
            told = await session.send()
            require(told.last.code == 421, str(told))
            after = await session.client.say(b"NOOP")
            require(after.code in (0, 421), f"{told}, and the session goes on: {after}")
            await session.over()
        await trial.nothing(needed=False)
        return f"{told}, then the connection is closed"

    shutdown = "libmilter mfdef.h, SMFIR_SHUTDOWN; Postfix milter8.c"
    source = shutdown if isinstance(reply, m.Shutdown) else f"{_SETREPLY}; RFC 5321 section 3.8"
    rule = "The client hears 421, and the MTA closes the connection."
    return Check(f"hang-up/{name}", title, rule, source, run)


async def _conn_fail(trial: Trial) -> str:
    return await deferred(trial, Plan({m.MailFrom: m.ConnFail()}))


async def _one_recipient(trial: Trial) -> str:
    good, bad = trial.address(b"good"), trial.address(b"bad")

    def choose(event: m.CommandMessage, _number: int) -> m.Reply:
        mine = isinstance(event, m.RcptTo) and event.address == b"<%b>" % bad
        return m.ReplyCode(b"550 5.1.1 not this one") if mine else m.Continue()

    async with trial.session(Plan({m.RcptTo: choose})) as session:
        told = await session.send(recipients=[bad, good])
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    mails = await trial.delivered()
    found = [each.address for mail in mails for each in mail.recipients]
    require(found == [good], "the refused recipient got it too")
    return f"{told.at('rcpt')}; the other one got it"


async def _malformed(trial: Trial) -> str:
    seen = []
    for text in (b"250 2.0.0 fine", b"999 9.9.9 what", b"no code", b"55"):
        trial.remark()
        told, _ = await trial.send(Plan({m.MailFrom: m.ReplyCode(text)}))
        if told.last.kind != 4:
            raise FailedError(f"{text.decode()!r} became {told}")
        seen.append(str(told))
    await trial.nothing(needed=False)
    return "; ".join(dict.fromkeys(seen))


async def _skip_body(trial: Trial) -> str:
    plan = Plan({m.BodyChunk: m.Skip()}, Terms(protocol=Protocol.SKIP))
    async with trial.session(plan) as session:
        told = await session.send(joined(trial.fields, BIG))
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    pieces = len(heard.of(m.BodyChunk))
    require(pieces == 1, f"{pieces} pieces")
    require(heard.of(m.EndOfMessage), "no end of message")
    mails = await trial.delivered()
    require(mails[0].octets.endswith(BIG), "the body did not arrive whole")
    return "one piece shown, then the end; the body arrives whole"


async def _skip_header(trial: Trial) -> str:
    told, heard = await trial.send(Plan({m.Header: m.Skip()}, Terms(protocol=Protocol.SKIP)))
    sound(heard)
    require(told.taken, str(told))
    fields = len(heard.of(m.Header))
    require(fields == 1, f"{fields} fields")
    require(heard.of(m.EndOfHeaders) and heard.of(m.BodyChunk), "what follows was skipped too")
    return "one field shown, then the end of the header"


async def _progress(trial: Trial) -> str:
    pause = trial.site.content * 0.6
    late: list[Step] = [Wait(pause), m.Progress()]
    steps = [*late * 3, m.AddHeaderReply(b"X-Late", b"yes"), m.Accept()]
    told, heard = await trial.send(Plan({m.EndOfMessage: steps}))
    sound(heard)
    require(told.taken, str(told))
    mails = await trial.delivered()
    require(b"X-Late: yes\r\n" in mails[0].octets, "its edit was not made")
    return "taken after 1.8 times the limit, with its edit"


async def _progress_early(trial: Trial) -> str:
    pause = trial.site.command * 0.6
    late: list[Step] = [Wait(pause), m.Progress()]
    steps = [*late * 3, m.Continue()]
    told, _ = await trial.send(Plan({m.MailFrom: steps}))
    require(told.taken or told.last.kind == 4, str(told))
    return str(told)


CHECKS = (
    *(_refusals(stage) for stage in STAGES),
    *(_accept(stage) for stage in STAGES),
    *(_discard(stage) for stage in STAGES if stage not in SESSION),
    Check(
        "discard/session",
        "Discard at connect and helo",
        "It is no answer there: it is ignored, or the mail is put off; no mail is lost.",
        "libmilter, xxfi_connect; Postfix milter8.c",
        _discard_session,
    ),
    Check(
        "text/lines",
        "A reply of two lines",
        "The client hears both lines.",
        "libmilter, smfi_setmlreply",
        _lines,
    ),
    Check("text/percent", "A doubled percent sign", "The client hears one.", _SETREPLY, _percent),
    Check(
        "text/no-enhanced",
        "A reply without an enhanced code",
        "The client hears the code and the text.",
        _SETREPLY,
        _no_enhanced,
    ),
    Check(
        "text/malformed",
        "A reply that is none",
        "A code that is not 4xx or 5xx, or no code, is a failed milter.",
        f"{_SETREPLY}; Postfix milter8.c",
        _malformed,
    ),
    Check(
        "refuse/one-recipient",
        "One of two recipients refused",
        "The mail goes to the other one.",
        "libmilter, xxfi_envrcpt",
        _one_recipient,
    ),
    _hang_up("421-at-mail", "A 421 at MAIL", m.MailFrom, m.ReplyCode(b"421 4.7.0 go away")),
    _hang_up("421-at-eom", "A 421 at eom", m.EndOfMessage, m.ReplyCode(b"421 4.7.0 go away")),
    _hang_up("shutdown-at-mail", "Shutdown at MAIL", m.MailFrom, m.Shutdown()),
    _hang_up("shutdown-at-eom", "Shutdown at eom", m.EndOfMessage, m.Shutdown()),
    Check(
        "refuse/connection-failure",
        "ConnFail at MAIL",
        "As if the connection to the milter had failed.",
        "libmilter mfdef.h, SMFIR_CONN_FAIL",
        _conn_fail,
    ),
    Check(
        "skip/body",
        "Skip at the first piece of body",
        "No further piece is shown; the end of message is, and the body is not cut.",
        "libmilter, SMFIS_SKIP",
        _skip_body,
    ),
    Check(
        "skip/header",
        "Skip at the first field",
        "No further field is shown; what follows is.",
        "Postfix milter8.c, SMFIR_SKIP",
        _skip_header,
    ),
    Check(
        "progress/eom",
        "Progress at end of message",
        "Each one starts the MTA's limit anew.",
        "libmilter, smfi_progress",
        _progress,
    ),
    Check(
        "progress/early",
        "Progress at MAIL",
        "It counts, or the milter has failed: it belongs to the end of message.",
        "libmilter, smfi_progress; Postfix milter8.c",
        _progress_early,
    ),
)
