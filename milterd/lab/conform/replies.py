"""What a milter says: legal in its place, negotiated, well formed."""

from __future__ import annotations

import re

from milterd.lab.conform.check import Check, fail, not_applicable
from milterd.lab.conform.context import Context
from milterd.lab.conform.judged import Judged
from milterd.lab.conform.negotiation import agree
from milterd.lab.conform.talk import Talk
from milterd.lab.link import Fault, MilterError
from milterd.lab.show import readable
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.convert import EditCollector
from milterd.wire.errors import PeerError
from milterd.wire.limits import Limits

_NO_REPLIES = Protocol(0xFF080)
_LONE_PERCENT = re.compile(rb"(?<!%)(?:%%)*%(?!%)")
_REPLY_LINE = 512
"""RFC 5321 section 4.5.3.1.5, CRLF included."""


async def _all_mails(
    context: Context, protocol: Protocol = Protocol.ALL
) -> tuple[Talk, list[Judged]]:
    """What is said to each of the mails, all on one connection, which has ended then."""
    async with context.connected(protocol=protocol) as talk:
        await agree(talk)
        await talk.begin_session()
        found = [await talk.message(mail) for mail in context.options.mails]
        await talk.quit()
    return talk, found


async def _legal(context: Context) -> str:
    events = 0
    for protocol in (Protocol.ALL, Protocol.ALL & ~_NO_REPLIES):
        talk, _ = await _all_mails(context, protocol=protocol)
        if talk.mta.violations:
            fail("; ".join(talk.mta.violations))
        events += len(talk.heard)
    return f"{events} answers"


async def _once(context: Context) -> str:
    """Each answer is looked for again after the last: what is left over was too much."""
    count = 0
    for protocol in (Protocol.ALL, Protocol.ALL & ~_NO_REPLIES):
        async with context.connected(protocol=protocol) as talk:
            await talk.open()
            await talk.transaction()
            await talk.quit()
            count += len(talk.heard)
    return f"{count} events, {count} answers"


async def _texts(context: Context) -> str:
    texts = []
    for judged in (await _all_mails(context))[1]:
        if not isinstance(judged.reply, m.ReplyCode):
            continue
        text = judged.reply.text
        texts.append(readable(text))
        if _LONE_PERCENT.search(text):
            fail(f"a lone percent sign, which MTAs drop or refuse: {readable(text)}", judged.stage)
        if max(map(len, text.split(b"\r\n"))) + 2 > _REPLY_LINE:
            fail(f"a line over {_REPLY_LINE} octets: {readable(text)}", judged.stage)
    if not texts:
        not_applicable("the milter gives no reply text to any of the mails")
    return "; ".join(texts)


async def _edits_negotiated(context: Context) -> str:
    count = 0
    offers = [Actions.ALL, Actions.NONE | 0x3F, *(each for each in Actions if each)]
    for actions in offers:
        async with context.connected(actions=actions) as talk:
            count += await _edits_under(context, talk)
    if not count:
        not_applicable("the milter makes no edits to any of the mails")
    return f"{count} edits under {len(offers)} offers, all negotiated"


async def _edits_under(context: Context, talk: Talk) -> int:
    try:
        await talk.negotiate()
    except MilterError as error:
        if error.fault is Fault.GONE:
            return 0
        raise
    await talk.begin_session()
    count = 0
    for mail in context.options.mails:
        count += len((await talk.message(mail)).edits)
        if wrong := [each for each in talk.mta.violations if "negotiated" in each]:
            talk.fail(f"actions {int(talk.agreed.actions):#x}: {'; '.join(wrong)}")
    return count


async def _edits_well_formed(context: Context) -> str:
    seen: list[str] = []
    talk, found = await _all_mails(context)
    for judged in found:
        collector = EditCollector(talk.mta.leading_space)
        for edit in judged.edits:
            try:
                collector.take(edit)
            except PeerError as error:
                fail(f"{error.reason}: {readable(edit.encode()[4:])}", judged.stage)
            _look_at(edit, judged)
            seen.append(type(edit).__name__.removesuffix("Reply"))
    if not seen:
        not_applicable("the milter makes no edits to any of the mails")
    return ", ".join(sorted({f"{seen.count(each)} {each}" for each in seen}))


def _look_at(edit: m.EditReply, judged: Judged) -> None:
    """What an MTA takes as it comes, and should not have to."""
    match edit:
        case m.AddRcptReply() | m.AddRcptParReply() | m.DelRcptReply() | m.ChangeFromReply():
            if edit.address[:1] + edit.address[-1:] != b"<>":
                fail(f"address without angle brackets: {readable(edit.address)}", judged.stage)
        case m.ReplaceBodyChunk() if len(edit.octets) > Limits().body_chunk:
            fail(f"new body in a piece of {len(edit.octets)} octets", judged.stage)
        case _:
            pass


async def _folds(context: Context) -> str:
    count = 0
    for judged in (await _all_mails(context))[1]:
        for edit in judged.edits:
            value = getattr(edit, "value", b"")
            if b"\r" in value:
                fail(f"CR in a header value: {readable(value)}", judged.stage)
            count += b"\n" in value
    if not count:
        not_applicable("the milter makes no folded header field")
    return f"{count} folded fields, with LF"


CHECKS: tuple[Check, ...] = (
    Check(
        "replies/legal",
        "Replies in their places",
        "Each event gets one of the replies it may have: edits and progress only at end of "
        "message, discard only in a message.",
        "libmilter docs, callbacks' return values; Postfix milter8.c, milter8_event",
        _legal,
    ),
    Check(
        "replies/once",
        "One answer to each event",
        "An event is answered once, and nothing is said unasked.",
        "Postfix milter8.c, milter8_event",
        _once,
    ),
    Check(
        "replies/text",
        "Reply texts",
        "A text is a 4xx or 5xx reply, the same code on all its lines, an enhanced code of its "
        "class, percent signs doubled, no control characters, lines up to 512 octets.",
        "libmilter smfi_setreply; RFC 5321 sections 4.2 and 4.5.3.1.5; RFC 3463",
        _texts,
    ),
    Check(
        "edits/negotiated",
        "Edits under offers of few actions",
        "An edit is asked for only where its action was offered and negotiated.",
        "libmilter engine.c, mi_sendok; Sendmail logs it, and does not replace the body",
        _edits_negotiated,
    ),
    Check(
        "edits/well-formed",
        "Edits in their form",
        "Header names are RFC 5322 names, values without NUL, bare CR or a line that is no "
        "continuation, addresses in angle brackets and without control characters, a new body "
        "in pieces of at most 65,535 octets with no other edit between.",
        "RFC 5322 section 2.2; libmilter docs, smfi_addheader, smfi_chgfrom, smfi_replacebody",
        _edits_well_formed,
    ),
    Check(
        "edits/folds",
        "Folded header values",
        "Lines of a header value end in LF: an MTA keeps a CR as it is.",
        "libmilter docs, smfi_addheader",
        _folds,
    ),
)
