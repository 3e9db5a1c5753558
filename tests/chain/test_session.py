"""Which milters a session has, and how their connections live."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest

from milterd.core.decision import Verdict
from milterd.core.mail import Direction
from milterd.wire import messages as m
from smtpgw.chain import MilterOptions
from tests.chain.scripted import (
    HANG_UP,
    MAIL,
    SESSION,
    STALL,
    ChainResult,
    chain_of,
    run,
    scripted,
    transact,
    until,
    walk,
)


def test_a_session_keeps_its_connections_and_leaves_with_quit() -> None:
    async def main() -> None:
        async with scripted() as one:
            chain = chain_of(one.options())
            await walk(chain)
            await chain.helo(b"again")
            await transact(chain)
            await chain.close()
            await until(lambda: one.ended)
            assert len(one.sessions) == 1
            assert one.ended == ["eof"]
            assert one.kinds.count("Abort") == 2
            assert one.kinds.count("Helo") == 2
            assert one.kinds[-1] == "Quit"
            # Closing twice, or using a closed chain's ABORT, does nothing.
            await chain.abort()
            await chain.close()

    run(main())


def test_a_connection_that_is_over_needs_no_garbage_collector() -> None:
    async def main() -> None:
        async with scripted() as one:
            chain = chain_of(one.options())
            await walk(chain)
            client = weakref.ref(chain._members[0]._client)
            assert client() is not None
            await transact(chain)
            await chain.close()
            del chain
            await until(lambda: one.ended and client() is None)

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_a_milter_restarted_between_messages_is_not_reconnected_to() -> None:
    async def main() -> None:
        async with scripted({m.Abort: HANG_UP}) as one:
            chain = chain_of(one.options())
            assert (await walk(chain)).verdict is Verdict.CONTINUE
            await until(lambda: one.ended)
            assert (await transact(chain)).verdict is Verdict.TEMPFAIL
            assert (await transact(chain)).verdict is Verdict.TEMPFAIL
            assert len(one.sessions) == 1

    run(main())


def test_a_refused_mail_is_taken_back_from_those_who_had_it() -> None:
    async def main() -> None:
        async with scripted() as one, scripted({m.MailFrom: m.TempFail()}) as two:
            chain = chain_of(one.options(), two.options("two"))
            assert (await walk(chain)).verdict is Verdict.TEMPFAIL
            await until(lambda: one.kinds[-1] == "Abort")

    run(main())


@pytest.mark.parametrize("stage", [m.Connect, m.MailFrom, m.RcptTo, m.BodyChunk])
def test_a_milter_whose_answer_was_not_waited_for_has_not_said_yes(stage: type) -> None:
    async def main() -> None:
        async with scripted({stage: STALL}) as one:
            chain = chain_of(one.options())
            task = asyncio.create_task(walk(chain))
            await until(lambda: one.sessions and stage.__name__ in one.kinds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await chain.mail(b"x@example.org")).refused
            await chain.close()

    run(main())


def test_milters_of_other_listeners_are_not_asked() -> None:
    async def main() -> None:
        async with scripted() as one, scripted() as two:
            mine = one.options(listeners=frozenset({"mx"}))
            theirs = two.options("two", listeners=frozenset({"submission"}))
            await walk(chain_of(mine, theirs, listener="mx"))
            assert len(one.sessions) == 1
            assert not two.sessions

    run(main())


def test_milters_of_the_other_direction_are_asked_once_it_is_theirs() -> None:
    async def main() -> None:
        inbound = frozenset({Direction.INBOUND})
        originating = frozenset({Direction.ORIGINATING})
        async with scripted() as one, scripted() as two, scripted() as both:
            chain = chain_of(
                one.options(directions=inbound),
                two.options("two", directions=originating),
                both.options("both"),
            )
            await chain.connect(SESSION)
            await chain.helo(b"h")
            assert not two.sessions
            # The client has authenticated: this is submission after all.
            await chain.mail(b"s@example.org", (), {}, direction=Direction.ORIGINATING)
            await chain.rcpt(b"a@example.net")
            result = await chain.message(replace(MAIL), "Q1")
            assert result.verdict is Verdict.CONTINUE
            assert two.kinds[:4] == ["Negotiate", "Connect", "Helo", "MailFrom"]
            assert "EndOfMessage" in two.kinds
            assert "EndOfMessage" in both.kinds
            assert "MailFrom" not in one.kinds

    run(main())


def test_a_milter_met_late_may_refuse_the_connection() -> None:
    async def main() -> None:
        async with scripted({m.Connect: m.Reject()}) as one:
            chain = chain_of(one.options(directions=frozenset({Direction.ORIGINATING})))
            assert (await chain.connect(SESSION)).verdict is Verdict.CONTINUE
            result = await chain.mail(b"s@example.org", direction=Direction.ORIGINATING)
            assert result.verdict is Verdict.REJECT
            assert (await chain.mail(b"s@example.org")).verdict is Verdict.REJECT

    run(main())


def test_no_milters_at_all() -> None:
    async def main() -> None:
        result = await walk(chain_of())
        assert isinstance(result, ChainResult)
        assert result == ChainResult(MAIL)

    run(main())


def test_a_milter_on_tcp() -> None:
    async def main() -> None:
        async with scripted() as one:
            server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            options = MilterOptions("tcp", f"inet:{port}@127.0.0.1")
            chain = chain_of(options)
            assert (await walk(chain)).verdict is Verdict.CONTINUE
            await chain.close()
            await until(lambda: one.ended)
            server.close()

    run(main())


def test_every_event_is_measured() -> None:
    async def main() -> None:
        seen: list[tuple[str, str, str]] = []
        async with scripted({m.EndOfMessage: HANG_UP}) as one:
            chain = chain_of(
                one.options(),
                observe=lambda name, stage, _seconds, outcome: seen.append((name, stage, outcome)),
            )
            await walk(chain)
            assert seen == [
                ("one", "connect", "continue"),
                ("one", "helo", "continue"),
                ("one", "mail", "continue"),
                ("one", "rcpt", "continue"),
                ("one", "rcpt", "continue"),
                ("one", "data", "continue"),
                ("one", "message", "failed"),
            ]

    run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "smtp:x"},
        {"address": "unix:"},
        {"address": "inet:0@localhost"},
        {"address": "inet:99999@localhost"},
        {"name": ""},
        {"default_action": "drop"},
        {"command_timeout": 0},
        {"total_timeout": -1.0},
    ],
)
def test_options_that_cannot_be_meant(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"name": "n", "address": "unix:/run/x"}
    with pytest.raises(ValueError, match=r"."):
        MilterOptions(**{**right, **wrong})  # type: ignore[arg-type] # that is the point


def test_an_accept_at_an_unknown_command_is_of_what_comes_before_the_next_mail() -> None:
    async def main() -> None:
        async with scripted({m.Unknown: m.Accept()}) as milter:
            chain = chain_of(milter.options())
            await chain.connect(SESSION)
            await chain.helo(b"client.example.org")
            await chain.unknown(b"HUH")
            await transact(chain)
            await chain.close()
            assert milter.kinds.count("MailFrom") == 1

    run(main())
