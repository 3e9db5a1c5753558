"""What several milters are to hear is kept and made into frames once, and each hears it all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from milterd.core.decision import Verdict
from milterd.core.mail import BytesBody, Direction, Mail, PiecedBody
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, Protocol, Stage
from milterd.wire.messages import BodyChunk, Header
from smtpgw.chain.chain import Chain
from smtpgw.chain.content import Content
from smtpgw.chain.events import Event, Frames, Hearing, Said, frames_of
from smtpgw.chain.member import PUT_OFF
from tests.chain.scripted import (
    HANG_UP,
    MAIL,
    SESSION,
    Answer,
    chain_of,
    run,
    scripted,
    transact,
    until,
    walk,
)
from tests.chain.test_passage import EDIT, QUIET

QUEUE_ID = {Stage.END_OF_HEADERS: ("i",), Stage.END_OF_MESSAGE: ("i",), Stage.MAIL: ("i",)}
BIG = BytesBody(b"0123456789abcde\r\n" * 60_000)


async def _mail(chain: Chain, queue_id: bytes, *, now: bool) -> None:
    """MAIL, RCPT and DATA, without waiting if that will do."""
    macros, direction = {"i": queue_id}, SESSION.direction
    sender = MAIL.envelope.sender
    if not (now and chain.mail_now(sender, (), macros, direction)):
        await chain.mail(sender, (), macros, direction=direction)
    for each in MAIL.envelope.recipients:
        if not (now and chain.rcpt_now(each.address, each.args, {})):
            await chain.rcpt(each.address, each.args, {})
    await chain.rcpt_rejected(b"nobody@example.net")
    if not (now and chain.data_now()):
        await chain.data()


async def _heard(now: bool, answers: Sequence[Answer]) -> list[list[m.CommandMessage]]:
    """What quiet milters hear of a session: two mails, one given up, HELO, one more mail."""
    async with AsyncExitStack() as stack:
        served = [
            await stack.enter_async_context(scripted({m.EndOfMessage: each}, protocol=QUIET | more))
            for each, more in zip(
                answers, (Protocol.NONE, Protocol.NORCPT, Protocol.RCPT_REJ), strict=True
            )
        ]
        chain = chain_of(
            *[each.options(f"m{at}", default_action="accept") for at, each in enumerate(served)]
        )
        await walk(chain)
        for name in ("Q2", "Q3"):
            await _mail(chain, name.encode(), now=now)
            await chain.message(MAIL, name)
        await _mail(chain, b"Q4", now=now)
        await chain.abort()
        await chain.helo(b"again")
        await _mail(chain, b"Q5", now=now)
        await chain.message(MAIL, "Q5")
        await _mail(chain, b"Q6", now=now)
        await chain.close()
        await until(lambda: all(each.ended for each in served))
        return [told for each in served for told in each.sessions]


@pytest.mark.parametrize(
    "answers",
    [
        (None, EDIT, EDIT),
        (EDIT, m.Reject(), EDIT),
        (m.TempFail(), None, None),
        (None, m.Accept(), m.Discard()),
        (EDIT, HANG_UP, EDIT),
    ],
)
def test_each_milter_hears_what_it_would_if_it_were_told_at_once(answers: Sequence[Answer]) -> None:
    async def main() -> None:
        assert await _heard(True, answers) == await _heard(False, answers)

    run(main())


def test_more_recipients_than_are_put_off_are_told_to_all() -> None:
    async def main() -> None:
        async with scripted(protocol=QUIET) as one, scripted(protocol=QUIET) as two:
            chain = chain_of(one.options(), two.options("two"))
            await walk(chain)
            assert chain.mail_now(b"s@example.org", (), {}, SESSION.direction)
            told = [chain.rcpt_now(b"%d@example.net" % n, (), {}) for n in range(PUT_OFF)]
            assert told == [True] * (PUT_OFF - 1) + [False]
            await chain.rcpt(b"last@example.net")
            assert (await chain.message(MAIL, "Q2")).verdict is Verdict.CONTINUE
            assert one.events == two.events
            assert one.kinds.count("RcptTo") == len(MAIL.envelope.recipients) + PUT_OFF

    run(main())


@pytest.mark.parametrize("protocol", [QUIET, Protocol.NONE])
def test_macros_of_header_and_body_come_once(protocol: Protocol) -> None:
    async def main() -> None:
        async with scripted(protocol=protocol, macros=QUEUE_ID) as one:
            chain = chain_of(one.options())
            await walk(chain, replace(MAIL, body=BIG))
            await transact(chain)
            told = [type(each) for each in one.sessions[0]]
            assert told.count(BodyChunk) > 10
            for kind in (Header, BodyChunk):
                first = [at for at, each in enumerate(told) if each is kind]
                behind = [told[at - 1] for at in first if told[at - 1] is not kind]
                assert behind == [m.Macros, m.Macros]

    run(main())


def test_frames_are_made_once_for_milters_that_hear_alike() -> None:
    one = Hearing(QUEUE_ID, "", frozenset({m.Unknown}))
    two = Hearing(QUEUE_ID, "")
    other = Hearing(QUEUE_ID, "", frozenset({m.RcptTo, m.BodyChunk}))
    said = Said()
    said.events.append(Event("mail", m.MailFrom(b"<>"), {"i": b"Q1"}))
    assert said.frames(one) is said.frames(two)
    assert said.frames(one) is not said.frames(other)
    content = Content(MAIL, {"i": b"Q1"})
    assert content.whole(one) is content.whole(two)
    assert content.whole(one) != content.whole(other)


@pytest.mark.parametrize("mails", [0, 1])
def test_what_a_session_begins_with_is_made_into_frames_once(
    monkeypatch: pytest.MonkeyPatch, mails: int
) -> None:
    made: list[int] = []

    def counted(those: Sequence[Event], hearing: Hearing) -> Frames:
        made.append(len(those))
        return frames_of(those, hearing)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            served = [await stack.enter_async_context(scripted(protocol=QUIET)) for _ in range(3)]
            chain = chain_of(*[each.options(f"m{at}") for at, each in enumerate(served)])
            await chain.connect(SESSION)
            await chain.helo(b"one.example.org")
            await chain.helo(b"two.example.org")
            if mails:
                await transact(chain)
            await chain.close()
            await until(lambda: all(each.ended for each in served))
            for each in served:
                helos = [told for told in each.sessions[0] if isinstance(told, m.Helo)]
                assert [told.name for told in helos] == [b"one.example.org", b"two.example.org"]
                assert each.sessions == served[0].sessions
                assert each.kinds.count("Connect") == 1
                assert each.kinds.count("MailFrom") == mails

    monkeypatch.setattr("smtpgw.chain.events.frames_of", counted)
    run(main())
    assert made == [3 + mails * (2 + len(MAIL.envelope.recipients))]


@pytest.mark.parametrize("before", [False, True])
def test_a_milter_of_another_direction_is_told_of_the_session_first(before: bool) -> None:
    async def main() -> None:
        async with scripted(protocol=QUIET) as both, scripted(protocol=QUIET) as one:
            ours = one.options("one", directions=frozenset({Direction.ORIGINATING}))
            chain = chain_of(both.options("both"), ours)
            await chain.connect(SESSION)
            await chain.helo(b"client.example.org")
            if before:
                await transact(chain)
            await chain.mail(b"s@example.org", direction=Direction.ORIGINATING)
            await chain.rcpt(b"r@example.net")
            await chain.data()
            await chain.message(MAIL, "Q2")
            await chain.close()
            await until(lambda: both.ended and one.ended)
            for each in (both, one):
                assert [each.kinds.count(kind) for kind in ("Connect", "Helo")] == [1, 1]
            assert [each.kinds.count("MailFrom") for each in (both, one)] == [1 + before, 1]

    run(main())


def test_who_listens_hears_of_the_verdict_and_not_of_each_edit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from smtpgw.chain.member import Member

    taken: list[object] = []
    take = Member.take

    def counted(self: Member, content: Content) -> object:
        taken.append(take(self, content))
        return taken[-1]

    async def main() -> None:
        async with scripted(protocol=QUIET) as one:

            async def one_by_one(writer: object, _octets: bytes) -> None:
                for at in range(5):
                    writer.write(m.AddHeaderReply(b"X-Saw", b"%d" % at).encode())  # type: ignore[attr-defined]
                    await until(lambda at=at: seen() > at)
                writer.write(m.Continue().encode())  # type: ignore[attr-defined]

            def seen() -> int:
                client = chain._members[0]._client
                assert client is not None
                return len(client._replies)

            chain = chain_of(one.options())
            one.answers = {m.EndOfMessage: b"edits"}
            one.write = one_by_one
            result = await walk(chain)
            assert [len(edits) for _, edits in result.edits] == [5]  # type: ignore[union-attr]
            assert len(taken) == 1

    monkeypatch.setattr(Member, "take", counted)
    run(main())


def test_a_message_is_made_ready_only_for_a_milter_that_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    edited = Content.edited

    def counted(self: Content, mail: Mail) -> Content:
        made.append(len(mail.headers) - len(MAIL.headers))
        return edited(self, mail)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            served = [await stack.enter_async_context(scripted(protocol=QUIET)) for _ in range(3)]
            for each in served:
                each.answers = {m.EndOfMessage: [m.AddHeaderReply(b"X-Saw", b"1"), m.Continue()]}
            chain = chain_of(*[each.options(f"m{at}") for at, each in enumerate(served)])
            result = await walk(chain)
            assert len(result.mail.headers) == len(MAIL.headers) + 3  # type: ignore[union-attr]

    monkeypatch.setattr(Content, "edited", counted)
    run(main())
    assert made == [1, 2]


@pytest.mark.parametrize("first", [Protocol.NONE, Protocol.NOHDRS])
def test_a_milter_that_wants_no_header_changes_nothing_for_one_that_does(first: Protocol) -> None:
    order = QUIET | first, QUIET | (Protocol.NOHDRS ^ first)

    async def main() -> None:
        async with scripted(protocol=order[0]) as one, scripted(protocol=order[1]) as two:
            chain = chain_of(one.options(), two.options("two"))
            assert (await walk(chain)).verdict is Verdict.CONTINUE  # type: ignore[union-attr]
            fields = sum(not each.hidden for each in MAIL.headers)
            wanted = [0 if Protocol.NOHDRS in each else fields for each in order]
            assert [each.kinds.count("Header") for each in (one, two)] == wanted

    run(main())


@pytest.mark.parametrize("size", [1, 40_000, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("pieced", [False, True])
def test_a_message_shown_at_once_is_that_shown_piece_by_piece(size: int, pieced: bool) -> None:
    octets = b"x" * size
    body = PiecedBody((octets[:1], octets[1:])) if pieced else BytesBody(octets)
    hearing = Hearing(QUEUE_ID, "")
    content = Content(replace(MAIL, body=body), {"i": b"Q1"})
    parts = [
        *content.fields(hearing, hearing.leading_space),
        content.end_of_headers(hearing),
        *[part for chunk in content.chunks(hearing) for part in chunk],
        content.end(hearing),
    ]
    kinds, whole = content.whole(hearing)
    assert b"".join(whole) == b"".join(parts)
    assert kinds == (Header, m.EndOfHeaders, BodyChunk, m.EndOfMessage)


def test_a_nul_in_a_macro_is_told_as_a_question_mark() -> None:
    hearing = Hearing({Stage.MAIL: ("i", "{mail_addr}")}, "")
    event = Event("mail", m.MailFrom(b"<>"), {"i": b"Q1", "mail_addr": b"a\0b"})
    assert b"DMi\0Q1\0{mail_addr}\0a?b\0" in event.octets(hearing)
    plain = Event("mail", m.MailFrom(b"<>"), {"i": b"Q1", "mail_addr": b"ab"})
    assert b"DMi\0Q1\0{mail_addr}\0ab\0" in plain.octets(hearing)
