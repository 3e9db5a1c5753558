"""Several messages on a connection: each is judged as if it had come alone."""

from __future__ import annotations

from milterd.lab.conform import samples
from milterd.lab.conform.check import Check, NotApplicableError, fail
from milterd.lab.conform.context import Context
from milterd.lab.conform.judged import Judged
from milterd.lab.show import readable
from milterd.wire import messages as m
from milterd.wire.states import CommandType

_SOURCE = "libmilter docs, xxfi_abort and xxfi_eom; Postfix sends ABORT after each message"


async def _plain(context: Context) -> str:
    try:
        judged = await context.judged()
    except NotApplicableError as error:
        fail(f"{error}: give a session that it takes with --client, --helo and --macro")
    if judged.verdict not in ("continue", "accept", "discard"):
        fail(f"{judged}: give a mail that this milter accepts with --file", judged.stage)
    return str(judged)


async def _several(context: Context) -> str:
    async with context.connected() as talk:
        await talk.open()
        for number in range(1, 6):
            judged = await talk.message()
            await context.expect_same(judged, when=f"message {number}")
        await talk.quit()
    return f"five times {judged}"


async def _in_turns(context: Context) -> str:
    mails = context.options.mails
    for each in mails:
        await context.alone(each)
    async with context.connected() as talk:
        await talk.open()
        said: list[str] = []
        for mail in (*mails, *reversed(mails)):
            judged = await talk.message(mail)
            await context.expect_same(judged, mail, f"after {', '.join(said) or 'nothing'}")
            said.append(judged.verdict)
    return ", ".join(said)


async def _helo_between(context: Context) -> str:
    async with context.connected() as talk:
        await talk.open()
        for number in range(1, 4):
            judged = await talk.message()
            await context.expect_same(judged, when=f"message {number}")
            await talk.say(m.Helo(context.mail.session.helo))
        await talk.quit()
    return f"three times {judged}"


def no_trace(judged: Judged) -> None:
    """Fail if an edit or reply holds what only another mail had."""
    for each in judged.parts:
        if samples.CANARY in each.encode():
            fail(f"of the message before: {readable(each.encode()[4:])}", judged.stage)


def _abort(name: str, last: CommandType | None) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await talk.open()
            for _ in range(2):
                if last is not None:
                    await talk.until(last, samples.canary(context.mail))
                await talk.say(m.Abort())
            judged = await talk.message(context.mail)
            no_trace(judged)
            await context.expect_same(judged, when="the next message")
            await talk.quit()
        return f"the next message: {judged}"

    return Check(
        f"abort/after-{name}",
        f"ABORT after {name}, twice, then a message",
        "ABORT is never answered, and nothing of what was aborted is in the next message.",
        "libmilter docs, xxfi_abort; Postfix milter8.c, milter8_abort",
        run,
    )


ABORT_AT: dict[str, CommandType | None] = {
    "helo": None,
    "mail": m.MailFrom,
    "rcpt": m.RcptTo,
    "data": m.Data,
    "header": m.Header,
    "end-of-headers": m.EndOfHeaders,
    "body": m.BodyChunk,
}


CHECKS: tuple[Check, ...] = (
    Check(
        "messages/plain",
        "A plain mail",
        "A milter answers every event of a good mail and lets it pass; a card without that "
        "says little.",
        "Postfix milter8.c",
        _plain,
    ),
    Check(
        "messages/several",
        "Five messages on a connection",
        "A milter judges each message of a session as it would alone.",
        _SOURCE,
        _several,
    ),
    Check(
        "messages/in-turns",
        "Messages of different outcome in turns on a connection",
        "A milter judges each message of a session as it would alone.",
        _SOURCE,
        _in_turns,
    ),
    Check(
        "messages/helo-between",
        "HELO again after each message",
        "HELO may come again between messages, and changes nothing of what is judged.",
        "RFC 5321 section 4.1.4; libmilter engine.c, NX_HELO",
        _helo_between,
    ),
    *[_abort(name, last) for name, last in ABORT_AT.items()],
)
