"""Which events are sent, which are answered, and with what: the negotiated flags kept."""

from __future__ import annotations

from milterd.lab.conform.check import Check, fail, not_applicable
from milterd.lab.conform.context import Context
from milterd.lab.conform.judged import Judged
from milterd.lab.conform.negotiation import agree
from milterd.lab.conform.talk import Talk
from milterd.lab.link import STAGES
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.states import EVENTS, CommandType

_NO_REPLIES = Protocol(0xFF080)
_NO_EVENTS = Protocol(0x37F)
_SOURCE = "libmilter mfapi.h, SMFIP_NR_*; engine.c, sendreply"
_LINES = b"".join(
    b"line %06d of a long body, for those who have seen enough\r\n" % n for n in range(550)
)
_CHUNKS = (_LINES,) * 8

KINDS: dict[str, CommandType] = {
    STAGES[kind].replace(" ", "-"): kind for kind in EVENTS if kind is not m.EndOfMessage
}


async def _whole(context: Context, talk: Talk) -> Judged:
    """A session, an unknown command and a message under what was agreed, and its end."""
    await talk.begin_session()
    await talk.say(m.Unknown(b"XLAB unknown"))
    judged = await talk.message()
    await context.expect_same(judged)
    await talk.quit()
    return judged


def _kept(name: str, kind: CommandType) -> Check:
    flag = EVENTS[kind].unanswered

    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await talk.reach(kind)
            if talk.withholds(kind):
                not_applicable("the milter does not want the event")
            if talk.answers(kind):
                not_applicable(f"the milter answers it: {flag.name} is not negotiated")
            await talk.quit()
        return f"{flag.name} negotiated, no answer"

    return Check(
        f"no-reply/kept-{name}",
        f"{flag.name} kept, where the milter negotiates it",
        f"A milter that negotiates {flag.name} does not answer that event: the MTA would take "
        "the answer for that to the next.",
        _SOURCE,
        run,
    )


def _not_offered(name: str, kind: CommandType) -> Check:
    flag = EVENTS[kind].unanswered

    async def run(context: Context) -> str:
        async with context.connected(protocol=Protocol.ALL & ~flag) as talk:
            await agree(talk)
            if talk.withholds(kind):
                not_applicable("the milter does not want the event")
            judged = await _whole(context, talk)
            seen = [reply for event, reply in talk.heard if event is kind]
        if not seen:
            not_applicable(f"the message was settled before: {judged}")
        return f"answered {len(seen)} times; {judged}"

    return Check(
        f"no-reply/not-offered-{name}",
        f"An MTA that does not offer {flag.name}",
        f"Without {flag.name} in the offer the event is answered, whatever the milter would "
        "like; libmilter does it for the filter.",
        _SOURCE,
        run,
    )


async def _none_offered(context: Context) -> str:
    async with context.connected(protocol=Protocol.ALL & ~_NO_REPLIES) as talk:
        await agree(talk)
        judged = await _whole(context, talk)
        return f"{len(talk.heard)} events answered; {judged}"


def _not_withheld(name: str, kind: CommandType) -> Check:
    flag = EVENTS[kind].unsent

    async def run(context: Context) -> str:
        async with context.connected(protocol=Protocol.ALL & ~flag) as talk:
            await agree(talk)
            judged = await _whole(context, talk)
        return str(judged)

    return Check(
        f"events/not-withheld-{name}",
        f"An MTA that does not offer {flag.name}",
        "An event that the MTA cannot withhold is taken and answered, and the mail judged as "
        "ever; a milter that cannot do with it closes at the negotiation.",
        "libmilter engine.c, st_optionneg",
        run,
    )


async def _nothing_withheld(context: Context) -> str:
    async with context.connected(protocol=Protocol.ALL & ~_NO_EVENTS) as talk:
        await agree(talk)
        return str(await _whole(context, talk))


async def _as_negotiated(context: Context) -> str:
    async with context.connected() as talk:
        await agree(talk, may_refuse=False)
        judged = await _whole(context, talk)
        unsent = [name for name, kind in KINDS.items() if talk.withholds(kind)]
        return f"not sent: {', '.join(unsent) or 'nothing'}; {judged}"


# --- SKIP -----------------------------------------------------------------------------


async def _skip_not_offered(context: Context) -> str:
    async with context.connected(protocol=Protocol.ALL & ~Protocol.SKIP) as talk:
        await agree(talk)
        await talk.begin_session()
        judged = await talk.message(chunks=_CHUNKS)
        if any(isinstance(reply, m.Skip) for _, reply in talk.heard):
            talk.fail("answers skip")
    return await context.expect_alive(judged)


async def _skip_kept(context: Context) -> str:
    async with context.connected() as talk:
        await talk.open()
        if talk.withholds(m.BodyChunk):
            not_applicable("the milter does not want the body")
        first = await talk.message(chunks=_CHUNKS)
        skipped = [event for event, reply in talk.heard if isinstance(reply, m.Skip)]
        if wrong := {STAGES[each] for each in skipped if each is not m.BodyChunk}:
            fail(f"answers skip to {', '.join(sorted(wrong))}", STAGES[skipped[0]])
        if Protocol.SKIP not in talk.agreed.protocol and skipped:
            fail("answers skip without having negotiated it", STAGES[m.BodyChunk])
        second = await talk.message(chunks=_CHUNKS)
        if first.shape != second.shape:
            fail(f"{first}, and with the same message again {second}")
    if not skipped:
        not_applicable("the milter never answers skip")
    return f"skips the rest of a long body, and says {first}"


CHECKS: tuple[Check, ...] = (
    *[_kept(name, kind) for name, kind in KINDS.items()],
    *[_not_offered(name, kind) for name, kind in KINDS.items()],
    Check(
        "no-reply/none-offered",
        "An MTA that offers none of the NR flags",
        "Every event is answered, once.",
        _SOURCE,
        _none_offered,
    ),
    Check(
        "events/as-negotiated",
        "Only the events that the milter wants",
        "The message is judged from the events that were negotiated, and each answered once.",
        "libmilter mfapi.h, SMFIP_NO*; Postfix milter8.c",
        _as_negotiated,
    ),
    *[_not_withheld(name, kind) for name, kind in KINDS.items()],
    Check(
        "events/nothing-withheld",
        "An MTA that offers none of the NO flags",
        "All events are taken and answered, and the mail judged as ever; a milter that cannot "
        "do with them closes at the negotiation.",
        "libmilter engine.c, st_optionneg",
        _nothing_withheld,
    ),
    Check(
        "skip/not-offered",
        "An MTA that does not offer SKIP",
        "Skip is answered only to an MTA that offers it.",
        "libmilter mfapi.h, SMFIP_SKIP",
        _skip_not_offered,
    ),
    Check(
        "skip/body-only",
        "Skip in a long body",
        "Skip is negotiated and answers a piece of the body, nothing else; the end of the "
        "message is still judged, and the next message from its start.",
        "libmilter docs, SMFIS_SKIP and xxfi_body",
        _skip_kept,
    ),
)
