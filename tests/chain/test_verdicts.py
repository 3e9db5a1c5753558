"""Every verdict at every stage, and what it does to the session (I10, C14, C13)."""

from __future__ import annotations

import pytest

from milterd.core.decision import Reply, Verdict
from milterd.core.finding import MACRO, Found
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from tests.chain.scripted import (
    SESSION,
    ChainResult,
    Log,
    chain_of,
    run,
    scripted,
    transact,
    until,
    walk,
)

EARLY = [m.Connect, m.Helo]
ENVELOPE = [m.MailFrom, m.RcptTo, m.Data]
CONTENT = [m.Header, m.EndOfHeaders, m.BodyChunk, m.EndOfMessage]
CUSTOM = m.ReplyCode(b"554 5.7.9 not %%here%\x09thanks")

REFUSALS = [
    (m.Reject(), "550 5.7.1 Command rejected", Verdict.REJECT, False),
    (m.TempFail(), "451 4.7.1 Service unavailable - try again later", Verdict.TEMPFAIL, False),
    (CUSTOM, "554 5.7.9 not %here thanks", Verdict.REJECT, False),
    (m.ReplyCode(b"550 no"), "550 5.7.1 no", Verdict.REJECT, False),
    (m.ReplyCode(b"451 4.7.1"), "451 4.7.1 Refused by policy", Verdict.TEMPFAIL, False),
    (m.ReplyCode(b"421 4.3.2 go away"), "421 4.3.2 go away", Verdict.TEMPFAIL, True),
    (m.ReplyCode(b"521 5.3.2 go away"), "521 5.3.2 go away", Verdict.REJECT, True),
    (m.Shutdown(), "421 4.7.0 Server closing connection", Verdict.TEMPFAIL, True),
    (m.ConnFail(), "451 4.7.1 Service unavailable - try again later", Verdict.TEMPFAIL, False),
    (
        m.ReplyCode(b"550-5.7.1 first\r\n550 5.7.1 second"),
        "550 5.7.1 first second",
        Verdict.REJECT,
        False,
    ),
]


@pytest.mark.parametrize("stage", EARLY + ENVELOPE + CONTENT)
@pytest.mark.parametrize(("reply", "text", "verdict", "hangup"), REFUSALS)
def test_a_refusal_is_given_at_its_stage(
    stage: type, reply: m.Reply, text: str, verdict: Verdict, hangup: bool
) -> None:
    async def main() -> None:
        async with scripted({stage: reply}) as one:
            result = await walk(chain_of(one.options()))
            assert (str(result.reply), result.verdict, result.hangup) == (text, verdict, hangup)
            assert result.reasons[-1].source == "milter one"
            assert result.reasons[-1].facts["reply"] == text
            if b"\r\n" in getattr(reply, "text", b""):
                assert result.reply is not None
                assert result.reply.text == "first\nsecond"
            asked = [each for each in one.kinds if each == stage.__name__]
            wanted = 2 if stage is m.RcptTo and not hangup and reply != m.ConnFail() else 1
            assert len(asked) == wanted

    run(main())


@pytest.mark.parametrize("stage", EARLY)
def test_a_refusal_at_connect_or_helo_is_for_the_session(stage: type) -> None:
    async def main() -> None:
        async with scripted({stage: m.Reject()}) as one, scripted() as two:
            chain = chain_of(one.options(), two.options("two"))
            await walk(chain)
            again = [await chain.helo(b"other"), await chain.mail(b"x@y"), await chain.rcpt(b"a@b")]
            assert [str(each.reply) for each in again] == ["550 5.7.1 Command rejected"] * 3
            await until(lambda: one.ended)
            assert "Quit" not in one.kinds
            # Nobody behind the refusal was asked about what was refused.
            assert stage.__name__ not in two.kinds

    run(main())


@pytest.mark.parametrize("stage", EARLY)
def test_accept_at_connect_or_helo_takes_that_milter_out_for_the_session(stage: type) -> None:
    async def main() -> None:
        async with scripted({stage: m.Accept()}) as one, scripted() as two:
            chain = chain_of(one.options(), two.options("two"))
            assert (await walk(chain)).verdict is Verdict.CONTINUE
            assert (await transact(chain)).verdict is Verdict.CONTINUE
            assert one.kinds[-1] == stage.__name__
            assert two.kinds.count("EndOfMessage") == 2

    run(main())


@pytest.mark.parametrize("stage", [*ENVELOPE, *CONTENT])
def test_accept_later_ends_this_message_only(stage: type) -> None:
    async def main() -> None:
        async with scripted({stage: m.Accept()}) as one, scripted() as two:
            chain = chain_of(one.options(), two.options("two"))
            result = await walk(chain)
            assert result.verdict is Verdict.CONTINUE
            assert "accept" in [each.outcome for each in result.reasons]
            await until(lambda: "Abort" in one.kinds)
            assert one.kinds[-2:] == [stage.__name__, "Abort"]
            await transact(chain)
            assert one.kinds.count("MailFrom") == 2
            assert two.kinds.count("EndOfMessage") == 2

    run(main())


@pytest.mark.parametrize("stage", EARLY)
def test_discard_at_connect_or_helo_is_ignored_with_a_warning(stage: type) -> None:
    async def main() -> None:
        log = Log()
        async with scripted({stage: m.Discard().encode()}) as one:
            one.answers = {stage: m.Discard().encode()}
            chain = chain_of(one.options(), log=log)
            assert (await chain.connect(SESSION)).verdict is Verdict.CONTINUE
            if stage is m.Helo:
                assert (await chain.helo(b"x")).verdict is Verdict.CONTINUE
            assert log.said("milter discard ignored")

    run(main())


@pytest.mark.parametrize("stage", [*ENVELOPE, *CONTENT])
def test_discard_reaches_the_client_as_success_and_nobody_is_asked_further(stage: type) -> None:
    async def main() -> None:
        async with scripted({stage: m.Discard()}) as one, scripted() as two:
            chain = chain_of(one.options(), two.options("two"))
            result = await walk(chain)
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.DISCARD
            assert result.reasons[-1].outcome == "discard"
            assert "EndOfMessage" not in two.kinds
            # The next message of the session is judged anew.
            one.answers = {}
            assert (await transact(chain)).verdict is Verdict.CONTINUE

    run(main())


def test_a_recipient_refused_by_the_second_milter_is_refused_alone() -> None:
    def only_b(event: m.RcptTo) -> m.Reply:
        return m.Reject() if event.address == b"<b@example.net>" else m.Continue()

    async def main() -> None:
        async with scripted() as one, scripted({m.RcptTo: only_b}) as two:
            chain = chain_of(one.options(), two.options("two"))
            result = await walk(chain)
            assert isinstance(result, ChainResult)
            assert [each.address for each in result.mail.envelope.recipients] == [b"a@example.net"]
            assert one.kinds.count("EndOfMessage") == two.kinds.count("EndOfMessage") == 1

    run(main())


def test_three_messages_of_one_session_know_nothing_of_each_other() -> None:
    replies = iter([m.Accept(), m.Reject(), m.Accept()])

    async def main() -> None:
        async with scripted({m.EndOfMessage: lambda _event: next(replies)}) as one:
            chain = chain_of(one.options())
            verdicts = [(await walk(chain, queue_id="Q1")).verdict]
            verdicts += [(await transact(chain, queue_id=each)).verdict for each in ("Q2", "Q3")]
            assert verdicts == [Verdict.CONTINUE, Verdict.REJECT, Verdict.CONTINUE]
            # An abandoned transaction leaves nothing in the next one either.
            await chain.mail(b"gone@example.org")
            await chain.abort()
            await chain.close()
            await until(lambda: one.ended)
            assert len(one.sessions) == 1
            assert one.kinds[-4:] == ["Abort", "MailFrom", "Abort", "Quit"]
            ids = [
                dict(each.values).get(b"i")
                for each in one.sessions[0]
                if isinstance(each, m.Macros) and each.command.value == b"E"
            ]
            assert ids == [b"Q1", b"Q2", b"Q3"]

    run(main())


def test_quarantine_is_not_final() -> None:
    replies = [m.QuarantineReply(b"looks\x1b odd" + b"!" * 200), m.Continue()]

    async def main() -> None:
        async with scripted({m.EndOfMessage: replies}) as one, scripted() as two:
            result = await walk(chain_of(one.options(), two.options("two")))
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE
            assert result.quarantine == b"looks? odd" + b"!" * 90
            assert "EndOfMessage" in two.kinds
            assert "quarantine" in [each.outcome for each in result.reasons]

    run(main())


CAUGHT = m.QuarantineReply(b"clamav/Eicar: infected")
PASSING = {
    "what it says": ([CAUGHT, m.Continue()], Found.of("one", "clamav/Eicar: other words"), True),
    "another rule": ([CAUGHT, m.Continue()], Found.of("one", "clamav/Eica: infected"), False),
    "another milter": ([CAUGHT, m.Continue()], Found.of("two", "clamav/Eicar"), False),
    "other words": ([m.QuarantineReply(b"odd"), m.Continue()], Found.of("one", "od"), False),
    "the same words": ([m.QuarantineReply(b"odd"), m.Continue()], Found.of("one", "odd"), True),
    "a refusal": (m.ReplyCode(b"550 no"), Found("one", "reject 550 5.7.1 no"), True),
    "another refusal": (m.ReplyCode(b"550 no!"), Found("one", "reject 550 5.7.1 no"), False),
    "a discard": (m.Discard(), Found("one", "discard"), True),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_released_mail_passes_its_finding_only(name: str) -> None:
    replies, passing, passes = PASSING[name]

    async def main() -> None:
        async with scripted({m.EndOfMessage: replies}) as one:
            caught = await walk(chain_of(one.options()))
            assert [each.milter for each in caught.found] == ["one"]
            result = await walk(chain_of(one.options(), passing=[passing]))
            assert (result.found == ()) == passes
            assert not passes or (result.verdict, result.quarantine) == (Verdict.CONTINUE, None)
            assert ("released" in [each.outcome for each in result.reasons]) == passes

    run(main())


def test_only_a_release_is_told_and_only_to_who_found_it() -> None:
    async def main() -> None:
        async with scripted() as one, scripted() as two:
            both = one.options(), two.options("two")
            for passing in ([], [Found.of("one", "clamav/Eicar: infected")]):
                one.sessions.clear()
                two.sessions.clear()
                await walk(chain_of(*both, passing=passing))
                told = {b"{gatepost_release}": b"clamav/Eicar"} if passing else {}
                assert told.items() <= one.macros_before(m.MailFrom).items()
                assert (f"{{{MACRO}}}".encode() in one.macros_before(m.MailFrom)) == bool(passing)
                assert f"{{{MACRO}}}".encode() not in two.macros_before(m.MailFrom)

    run(main())


def test_what_is_meant_for_the_hold_queue_is_no_finding() -> None:
    replies = [m.QuarantineReply(b"hold/header_checks: look"), m.Continue()]

    async def main() -> None:
        async with scripted({m.EndOfMessage: replies}) as one:
            result = await walk(chain_of(one.options()))
            assert (result.quarantine, result.found) == (b"hold/header_checks: look", ())

    run(main())


@pytest.mark.parametrize("stage", [m.MailFrom, m.RcptTo, m.Header])
def test_an_early_quarantine_is_taken_as_postfix_takes_it(stage: type) -> None:
    replies = m.QuarantineReply(b"early").encode() + m.Continue().encode()

    async def main() -> None:
        log = Log()
        async with scripted() as one:
            one.answers = {stage: replies}
            chain = chain_of(one.options(), log=log)
            await chain.connect(SESSION)
            stages = [await chain.mail(b"s@example.org"), await chain.rcpt(b"a@example.net")]
            assert [each.quarantine for each in stages].count(b"early") == (stage is not m.Header)
            assert all(each.verdict is Verdict.CONTINUE for each in stages)
            assert log.said("milter protocol violation") or stage is m.Header

    run(main())


def test_a_rejected_recipient_is_shown_to_those_who_asked_for_it() -> None:
    async def main() -> None:
        async with scripted(protocol=Protocol.RCPT_REJ) as one, scripted() as two:
            chain = chain_of(one.options(), two.options("two"))
            await chain.connect(SESSION)
            await chain.mail(b"s@example.org")
            refusal = Reply(550, "5.1.1", "no such user")
            await chain.rcpt_rejected(b"nobody@example.net", (), refusal)
            assert one.kinds[-1] == "RcptTo"
            assert one.macros_before(m.RcptTo) == {
                b"{rcpt_mailer}": b"error",
                b"{rcpt_host}": b"5.1.1",
                b"{rcpt_addr}": b"no such user",
            }
            assert "RcptTo" not in two.kinds

    run(main())


def test_an_unknown_command_is_shown() -> None:
    async def main() -> None:
        async with scripted({m.Unknown: m.Reject()}) as one:
            chain = chain_of(one.options())
            await chain.connect(SESSION)
            assert (await chain.unknown(b"FOO bar")).verdict is Verdict.REJECT
            assert one.events[-1] == m.Unknown(b"FOO bar")

    run(main())
