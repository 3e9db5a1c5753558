"""How a connection ends: QUIT, end of file, reset, and QUIT with a new client to follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from milterd.lab.conform.check import Check, fail, not_applicable
from milterd.lab.conform.context import Context
from milterd.lab.conform.talk import Talk
from milterd.lab.link import Fault, MilterError, Patience
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.states import CommandType

PLACES: dict[str, CommandType | None] = {
    "negotiation": None,
    "connect": m.Connect,
    "helo": m.Helo,
    "mail": m.MailFrom,
    "rcpt": m.RcptTo,
    "data": m.Data,
    "header": m.Header,
    "end-of-headers": m.EndOfHeaders,
    "body": m.BodyChunk,
}
_SOON = 1.0
"""Seconds after which an answer that no MTA waits for is taken as one that never comes."""


async def _go_to(talk: Talk, last: CommandType | None) -> None:
    if last is None:
        await talk.negotiate()
    else:
        await talk.reach(last)


def _quit(name: str, last: CommandType | None) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await _go_to(talk, last)
            await talk.quit()
        await context.serves()
        return "closes, and serves the next client"

    return Check(
        f"quit/after-{name}",
        f"QUIT after {name}",
        "QUIT is not answered: the milter closes the connection, and serves the next client.",
        "libmilter engine.c, st_quit; Postfix milter8.c, milter8_disc_event",
        run,
    )


async def _closes(context: Context, talk: Talk) -> str:
    """End of file from us, and what the milter does then."""
    talk.link.end_of_file()
    try:
        await talk.rest()
    except MilterError as error:
        if error.fault is Fault.SILENT:
            waited = f"{context.options.answer:g} s"
            fail(f"still open {waited} after our end of file", error.stage, error.octet)
        if error.fault is not Fault.GONE:
            raise
    await context.serves()
    return "closes, and serves the next client"


def _eof(name: str, last: CommandType | None) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await _go_to(talk, last)
            return await _closes(context, talk)

    return _eof_check(name, f"End of file after {name}, without QUIT", run)


async def _eof_before_all(context: Context) -> str:
    async with context.connected() as talk:
        return await _closes(context, talk)


async def _eof_while_judging(context: Context) -> str:
    """The MTA loses patience: the end of the message is sent, its answer not awaited."""
    async with context.connected() as talk:
        await talk.reach_open(m.BodyChunk)
        await talk.link.write(m.EndOfMessage().encode())
        return await _closes(context, talk)


async def _reset(context: Context) -> str:
    for last in (m.Helo, m.RcptTo, m.BodyChunk):
        async with context.connected() as talk:
            await talk.reach_open(last)
            await talk.link.write(b"\0\0\0")
            talk.link.drop()
    await context.serves()
    return "serves the next client"


def _eof_check(name: str, title: str, run: Callable[[Context], Awaitable[str]]) -> Check:
    return Check(
        f"eof/after-{name}",
        title,
        "A milter closes when its MTA has, at any time, and serves the next client.",
        "libmilter comm.c, mi_rd_cmd; an MTA that dies sends no QUIT",
        run,
    )


# --- QUIT_NC --------------------------------------------------------------------------


def _new_client(
    name: str, title: str, before: Callable[[Talk], Awaitable[None]], *, required: bool
) -> Check:
    async def run(context: Context) -> str:
        # CONNECT is to be answered, so that a milter that did not hear it can be told.
        async with context.connected(protocol=Protocol.ALL & ~Protocol.NR_CONN) as talk:
            await talk.open()
            await before(talk)
            await talk.say(m.QuitNewConnection())
            answer = min(_SOON, context.options.answer)
            talk.link.patience = replace(talk.link.patience, answer=answer)
            try:
                await talk.begin_session()
            except MilterError as error:
                if error.fault is Fault.GONE:
                    not_applicable("the milter closes: the MTA makes a new connection")
                if error.fault is Fault.SILENT and not required:
                    not_applicable("the next CONNECT gets no answer, as with libmilter")
                raise
            talk.link.patience = Patience(context.options.answer, context.options.total)
            judged = await talk.message()
            await context.expect_same(judged, when="the next client's message")
            await talk.quit()
        return f"the next client's message: {judged}"

    rule = "After QUIT_NC the next client's events follow on the same connection"
    where = (
        ", at the end of a message that was answered with continue."
        if required
        else "; libmilter does not have it in this place, and no MTA sends it."
    )
    return Check(
        f"quit-nc/{name}",
        title,
        rule + where,
        "libmilter mfdef.h, SMFIC_QUIT_NC; engine.c, NX_ENDM",
        run,
        # A program on libmilter has a new context then: it knows of the negotiation only what
        # it kept of the last one, which must not be another check's.
        apart=required,
    )


async def _after_continue(talk: Talk) -> None:
    judged = await talk.transaction()
    if not isinstance(judged.reply, m.Continue):
        not_applicable(f"the message ends with {judged}")


async def _after_abort(talk: Talk) -> None:
    await talk.message()


async def _at_once(_: Talk) -> None:
    return


CHECKS: tuple[Check, ...] = (
    *[_quit(name, last) for name, last in PLACES.items()],
    _eof_check("nothing", "End of file before anything is said", _eof_before_all),
    *[_eof(name, last) for name, last in PLACES.items()],
    _eof_check(
        "end-of-message", "End of file while the milter judges a message", _eof_while_judging
    ),
    Check(
        "eof/reset",
        "A connection cut in the middle of a packet",
        "A milter outlives a connection that is cut, and serves the next client.",
        "libmilter comm.c, mi_rd_cmd",
        _reset,
    ),
    _new_client("after-message", "A new client after a message", _after_continue, required=True),
    _new_client("after-abort", "A new client after ABORT", _after_abort, required=False),
    _new_client("before-mail", "A new client before any mail", _at_once, required=False),
)
