"""Milters that answer nothing but the end of a message: told late, at once, and together."""

from __future__ import annotations

import asyncio
import functools
import operator
import zlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.actions import (
    AddHeader,
    ChangeHeader,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
)
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.finding import Found
from milterd.core.mail import BytesBody, HeaderField
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol, Stage
from milterd.wire.convert import edit_to_replies
from smtpgw.chain.content import Content
from smtpgw.chain.events import Hearing
from smtpgw.chain.line import Line
from smtpgw.chain.member import PUT_OFF
from tests.chain.scripted import (
    HANG_UP,
    MAIL,
    SESSION,
    STALL,
    ChainResult,
    Scripted,
    StageResult,
    chain_of,
    run,
    scripted,
    transact,
    until,
    walk,
)

QUIET = functools.reduce(
    operator.or_, [each for each in Protocol if each.name and each.name.startswith("NR_")]
)
UNSHOWN = [
    Protocol.NOCONNECT, Protocol.NOHELO, Protocol.NOMAIL, Protocol.NORCPT, Protocol.NODATA,
    Protocol.NOHDRS, Protocol.NOEOH, Protocol.NOBODY, Protocol.HDR_LEADSPC,
]  # fmt: skip
READING = Actions.QUARANTINE
BIG = BytesBody(b"0123456789abcde\n".replace(b"\n", b"\r\n") * 60_000)


def one_after_the_other(told: Sequence[m.CommandMessage]) -> list[m.CommandMessage]:
    """A conversation, its body pieces as one."""
    found: list[m.CommandMessage] = []
    for each in told:
        if isinstance(each, m.BodyChunk) and found and isinstance(found[-2], m.BodyChunk):
            del found[-1]
            found[-1] = m.BodyChunk(found[-1].octets + each.octets)
        else:
            found.append(each)
    return found


@pytest.mark.parametrize("body", [MAIL.body, BytesBody(), BIG])
@pytest.mark.parametrize("more", [Protocol.NONE, *UNSHOWN])
def test_a_quiet_milter_hears_what_any_other_one_does(body: BytesBody, more: Protocol) -> None:
    macros = {Stage.MAIL: ("{mail_addr}",), Stage.END_OF_HEADERS: ("i", "j")}

    async def hear(protocol: Protocol) -> tuple[list[m.CommandMessage], list[object]]:
        async with scripted({}, protocol=protocol | more, macros=macros) as one:
            chain = chain_of(one.options(macro_daemon_name="own"))
            results: list[object] = [await walk(chain, replace(MAIL, body=body))]
            # A transaction that comes to nothing, another HELO, and a mail after it.
            await chain.helo(b"again")
            await chain.mail(b"", (), {"auth_authen": b"me"})
            await chain.rcpt(b"c@example.net")
            await chain.abort()
            await chain.helo(b"and again")
            results.append(await transact(chain, MAIL, "Q2"))
            await chain.close()
            await until(lambda: one.ended)
            assert one.ended == ["eof"]
            return one_after_the_other(one.sessions[0][1:]), results

    async def main() -> None:
        assert await hear(QUIET) == await hear(Protocol.NONE)

    run(main())


@dataclass(frozen=True)
class Part:
    """One milter of a chain: what it may do, and what it does."""

    quiet: bool
    actions: Actions
    edits: tuple[Edit, ...]
    answer: m.Reply
    action: str = "tempfail"
    hangs_up: bool = False


EDIT = st.sampled_from(
    [
        AddHeader(b"X-One", b" 1"),
        AddHeader(b"X-Two", b" 2"),
        ChangeHeader(b"Subject", 1, b" other"),
        ChangeHeader(b"X-One", 1, b""),
        DeleteRecipient(b"a@example.net"),
        DeleteRecipient(b"b@example.net"),
        ReplaceBody(BytesBody(b"new\r\n")),
    ]
)
HEADER_EDIT = st.one_of(
    st.builds(AddHeader, st.just(b"X-One"), st.just(b" 1")),
    st.builds(InsertHeader, st.integers(0, 6), st.just(b"X-Two"), st.just(b" 2")),
    st.builds(ChangeHeader, st.sampled_from([b"Subject", b"From"]), st.just(1), st.just(b"")),
    st.builds(ChangeHeader, st.just(b"Subject"), st.just(1), st.just(b" other")),
)
ANSWERS = st.sampled_from(
    [m.Continue(), m.Continue(), m.Continue(), m.Accept(), m.Reject(), m.TempFail(), m.Discard(),
     m.ReplyCode(b"550 5.7.1 no"), m.QuarantineReply(b"hm")]
)  # fmt: skip
PARTS = st.builds(
    Part,
    st.booleans(),
    st.sampled_from([READING, READING, Actions.ALL & ~Actions.SETSYMLIST]),
    st.lists(EDIT, max_size=3).map(tuple),
    ANSWERS,
    st.sampled_from(["tempfail", "accept", "quarantine"]),
    st.sampled_from([False, False, False, True]),
)


def script(part: Part) -> list[m.Reply]:
    asked: list[m.Reply] = [each for edit in part.edits for each in edit_to_replies(edit, False)]
    if isinstance(part.answer, m.QuarantineReply):
        return [*asked, part.answer, m.Continue()]
    return [*asked, part.answer]


def answer(part: Part, milter: Scripted, _event: m.CommandMessage) -> object:
    """What it is to answer, and for one that may, a field that tells what it was shown."""
    if part.hangs_up:
        return HANG_UP
    said = b"".join(each.encode() for each in script(part))
    if Actions.ADDHDRS not in part.actions:
        return said
    told = milter.sessions[-1]
    begun = max(at for at, each in enumerate(told) if isinstance(each, m.MailFrom))
    shown = [each for each in told[begun:] if isinstance(each, m.Header | m.BodyChunk)]
    saw = b"%d" % zlib.crc32(repr(shown).encode())
    return m.AddHeaderReply(b"X-Saw", saw).encode() + said


async def through(
    parts: Sequence[Part], quiet: bool, mails: int
) -> tuple[list[StageResult | ChainResult], list[int]]:
    """What the mails come to, and how many of them each milter has seen."""
    async with AsyncExitStack() as stack:
        milters: list[Scripted] = []
        for part in parts:
            protocol = QUIET if quiet and part.quiet else Protocol.NONE
            serving = scripted(protocol=protocol, actions=part.actions)
            milters.append(await stack.enter_async_context(serving))
            milters[-1].answers = {m.EndOfMessage: functools.partial(answer, part, milters[-1])}
        options = [
            each.options(f"m{at}", default_action=parts[at].action)
            for at, each in enumerate(milters)
        ]
        chain = chain_of(*options, passing=[Found("m1", "reject 550 5.7.1 no", "550 5.7.1 no")])
        results = [await walk(chain)]
        results += [await transact(chain) for _ in range(1, mails)]
        await chain.close()
        return results, [each.kinds.count("EndOfMessage") for each in milters]


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(PARTS, min_size=2, max_size=4), mails=st.integers(1, 3))
def test_milters_asked_together_decide_as_one_after_the_other(
    parts: list[Part], mails: int
) -> None:
    async def main() -> None:
        together, _ = await through(parts, True, mails)
        in_turn, _ = await through(parts, False, mails)
        assert together == in_turn

    run(main())


def test_those_who_read_only_are_asked_together() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def first(writer: asyncio.StreamWriter, octets: bytes) -> None:
        if octets == m.Continue().encode():
            await gate.wait()
        writer.write(octets)

    async def second(writer: asyncio.StreamWriter, octets: bytes) -> None:
        if octets == m.Continue().encode():
            begun.set()
        writer.write(octets)

    async def main() -> None:
        async with (
            scripted(protocol=QUIET, actions=READING, write=first) as one,
            scripted(protocol=QUIET, write=second) as two,
            scripted(protocol=QUIET) as three,
        ):
            chain = chain_of(one.options(), two.options("two"), three.options("three"))
            walking = asyncio.create_task(walk(chain))
            await begun.wait()
            assert "EndOfMessage" not in three.kinds  # the second may change the mail
            gate.set()
            assert (await walking).verdict is Verdict.CONTINUE
            assert "EndOfMessage" in three.kinds

    run(main())


@pytest.mark.parametrize("in_time", [True, False])
def test_an_answer_that_is_not_waited_for_is_dropped(in_time: bool) -> None:
    gate, said = asyncio.Event(), asyncio.Event()

    async def late(writer: asyncio.StreamWriter, octets: bytes) -> None:
        if octets.endswith(m.Reject().encode()):
            await gate.wait()
            writer.write(octets)
            said.set()
        else:
            writer.write(octets)

    answers = iter([m.TempFail(), m.Continue()])
    twice = iter([[m.AddHeaderReply(b"X", b"late"), m.Reject()], m.Continue()])

    async def main() -> None:
        async with (
            scripted(
                {m.EndOfMessage: lambda _: next(answers)}, protocol=QUIET, actions=READING
            ) as one,
            scripted({m.EndOfMessage: lambda _: next(twice)}, protocol=QUIET, write=late) as two,
        ):
            chain = chain_of(one.options(), two.options("two"))
            first = await walk(chain)
            assert str(first.reply).startswith("451 4.7.1")
            if in_time:
                gate.set()
                await said.wait()
                client = chain._members[1]._client  # nothing else shows that it has come
                await until(lambda: client is not None and client.usable)
            result = await transact(chain)
            assert isinstance(result, ChainResult)
            assert (result.verdict, result.edits) == (Verdict.CONTINUE, ())
            kinds = [type(each).__name__ for told in two.sessions for each in told]
            assert kinds.count("EndOfMessage") == 2
            # One that still thinks about the first mail is not waited for.
            assert kinds.count("Connect") == kinds.count("Helo") == len(two.sessions)
            assert len(two.sessions) == (1 if in_time else 2)

    run(main())


def test_a_mail_that_is_broken_off_spoils_no_milter_that_was_asked_with_another() -> None:
    async def main() -> None:
        async with (
            scripted({m.EndOfMessage: STALL}, protocol=QUIET, actions=READING) as one,
            scripted({m.EndOfMessage: STALL}, protocol=QUIET) as two,
        ):
            chain = chain_of(one.options(default_action="accept"), two.options("two"))
            walking = asyncio.create_task(walk(chain))
            await until(lambda: two.sessions and "EndOfMessage" in two.kinds)
            walking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await walking
            two.answers = {}
            assert (await transact(chain)).verdict is Verdict.CONTINUE
            assert len(two.sessions) == 2

    run(main())


def test_what_a_milter_is_told_of_later_is_bounded() -> None:
    async def main() -> None:
        async with scripted(protocol=QUIET) as one:
            chain = chain_of(one.options())
            await chain.connect(SESSION)
            await chain.helo(b"h")
            await chain.mail(b"s@example.org")
            for n in range(3 * PUT_OFF):
                await chain.rcpt(b"%d@example.net" % n)
            # It is kept like any other octets then, and written with what comes next.
            await chain.abort()
            await until(lambda: one.kinds[-1] == "Abort")
            assert one.kinds.count("RcptTo") == 3 * PUT_OFF

    run(main())


def test_a_quiet_milter_that_died_fails_before_the_content() -> None:
    async def main() -> None:
        async with scripted({m.Abort: HANG_UP}, protocol=QUIET) as one:
            chain = chain_of(one.options())
            await chain.connect(SESSION)
            await chain.mail(b"s@example.org")
            await chain.abort()
            await until(lambda: one.ended)
            assert (await chain.mail(b"s@example.org")).refused

    run(main())


@settings(max_examples=60, deadline=None)
@given(edits=st.lists(st.lists(HEADER_EDIT, max_size=3), min_size=1, max_size=4))
def test_the_header_of_an_edited_mail_is_made_from_the_one_before(edits: list[list[Edit]]) -> None:
    hearing = Hearing({Stage.END_OF_HEADERS: ("i",)}, "")
    content = Content(MAIL, {"i": b"Q1"})
    for each in edits:
        content.headers(hearing, True)
        mail = apply(content.mail, each)
        content = content.edited(mail)
        anew = Content(mail, {"i": b"Q1"}).headers(hearing, True)
        assert content.headers(hearing, True) == anew


def test_each_milter_sees_the_header_as_the_one_before_left_it() -> None:
    edits = [m.AddHeaderReply(b"X-One", b"1"), m.Continue()]

    async def main() -> None:
        async with (
            scripted({m.EndOfMessage: edits}, protocol=QUIET) as one,
            scripted(protocol=QUIET | Protocol.HDR_LEADSPC) as two,
        ):
            result = await walk(chain_of(one.options(), two.options("two")))
            assert isinstance(result, ChainResult)
            shown = [each for each in two.events if isinstance(each, m.Header)]
            assert shown[-1] == m.Header(b"X-One", b" 1")
            assert result.mail.headers[-1] == HeaderField(b"X-One", b" 1")

    run(main())


@pytest.mark.parametrize("quiet", [True, False])
def test_what_nobody_has_to_be_asked_about_is_told_without_waiting(quiet: bool) -> None:
    envelope = MAIL.envelope

    async def hear(now: bool) -> tuple[list[m.CommandMessage], list[bool], object]:
        protocol = QUIET if quiet else Protocol.NONE
        async with scripted({}, protocol=protocol) as one:
            chain = chain_of(one.options())
            await walk(chain, MAIL)
            told: list[bool] = []
            macros = {"i": b"Q2"}
            direction = SESSION.direction
            told.append(now and chain.mail_now(envelope.sender, (), macros, direction))
            if not told[-1]:
                await chain.mail(envelope.sender, (), macros, direction=direction)
            for each in envelope.recipients:
                told.append(now and chain.rcpt_now(each.address, each.args, {}))
                if not told[-1]:
                    await chain.rcpt(each.address, each.args, {})
            told.append(now and chain.data_now())
            if not told[-1]:
                await chain.data()
            result = await chain.message(MAIL, "Q2")
            await chain.close()
            await until(lambda: one.ended)
            return one_after_the_other(one.sessions[0]), told, result

    async def main() -> None:
        usual, none, expected = await hear(now=False)
        heard, told, result = await hear(now=True)
        assert (heard, result) == (usual, expected)
        assert not any(none)
        assert set(told) == {quiet}

    run(main())


def test_a_session_of_one_mail_takes_three_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = Line.write

    def counted(self: Line, data: bytes) -> None:
        written.append(data)
        write(self, data)

    async def main() -> None:
        async with scripted(protocol=QUIET) as milter:
            chain = chain_of(milter.options())
            await walk(chain)
            await chain.close()
            await until(lambda: milter.ended)
            assert milter.kinds[-2:] == ["Abort", "Quit"]

    monkeypatch.setattr(Line, "write", counted)
    run(main())
    assert len(written) == 3  # the offer, the session and its mail, the end of both


@pytest.mark.parametrize("first", ["stalls", "quick"])
def test_who_waits_for_the_milters_no_longer_leaves_none_half_open(first: str) -> None:
    async def main() -> None:
        async with scripted(greeting=STALL) as stalls, scripted(protocol=QUIET) as quick:
            both = [stalls.options("stalls"), quick.options("quick")]
            chain = chain_of(*both[:: 1 if first == "stalls" else -1])
            opening = asyncio.create_task(chain.connect(SESSION))
            await until(lambda: stalls.sessions and quick.sessions)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            stalls.greeting = None
            assert (await chain.connect(SESSION)).verdict is Verdict.CONTINUE
            await chain.close()
            await until(lambda: stalls.ended and len(quick.ended) == len(quick.sessions))
            assert len(stalls.sessions) == 2

    run(main())
