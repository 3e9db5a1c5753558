"""A message's way from verdict to verdict: who wakes for it, and what stops it half-way."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Awaitable, Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from milterd.core.decision import Verdict
from milterd.core.mail import BytesBody
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from tests.chain.scripted import (
    HANG_UP,
    MAIL,
    STALL,
    Answer,
    ChainResult,
    Log,
    Scripted,
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
EDIT = [m.AddHeaderReply(b"X-Saw", b"it"), m.Continue()]


async def served(stack: AsyncExitStack, *answers: Answer) -> Sequence[Scripted]:
    """Quiet milters that may edit, and answer the end of message so."""
    return [
        await stack.enter_async_context(scripted({m.EndOfMessage: each}, protocol=QUIET))
        for each in answers
    ]


class Waits:
    """Awaits something, and counts how often it has to wait."""

    def __init__(self, inner: Awaitable[Any]) -> None:
        self.inner, self.count = inner, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.inner.__await__()
        try:
            waited = next(steps)
            while True:
                self.count += 1
                yield waited
                waited = steps.send(None)
        except StopIteration as over:
            return over.value


def test_whoever_waits_for_a_message_wakes_once_for_all_milters() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            milters = await served(stack, EDIT, EDIT, EDIT)
            chain = chain_of(*[each.options(f"m{at}") for at, each in enumerate(milters)])
            await walk(chain)
            await chain.mail(b"s@example.org")
            await chain.rcpt(b"a@example.net")
            waits = Waits(chain.message(MAIL, "Q2"))
            result = await waits
            assert [name for name, _ in result.edits] == ["m0", "m1", "m2"]
            assert waits.count == 1

    run(main())


def test_a_mail_given_up_while_the_second_milter_thinks_costs_that_one_alone() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            one, two, three = await served(stack, EDIT, STALL, EDIT)
            log = Log()
            chain = chain_of(
                one.options("m0"),
                two.options("m1", default_action="accept"),
                three.options("m2"),
                log=log,
            )
            walking = asyncio.create_task(walk(chain))
            await until(lambda: two.sessions and "EndOfMessage" in two.kinds)
            walking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await walking
            assert [each["milter"] for each in log.said("milter failed")] == ["m1"]
            result = await transact(chain)
            assert isinstance(result, ChainResult)
            assert [name for name, _ in result.edits] == ["m0", "m2"]
            assert one.kinds.count("EndOfMessage") == 2
            assert three.kinds.count("EndOfMessage") == 1

    run(main())


@pytest.mark.parametrize(("answer", "words"), [(STALL, "answering took"), (HANG_UP, "closed")])
def test_a_milter_that_fails_in_the_middle_is_followed_by_the_next(
    answer: Answer, words: str
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            one, two, three = await served(stack, EDIT, answer, EDIT)
            log = Log()
            chain = chain_of(
                one.options("m0"),
                two.options("m1", default_action="accept", content_timeout=0.1),
                three.options("m2"),
                log=log,
            )
            result = await walk(chain)
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE
            assert [name for name, _ in result.edits] == ["m0", "m2"]
            assert words in str(log.said("milter failed")[0]["detail"])

    run(main(), steady=True)


def test_a_milter_that_goes_on_for_ever_meets_the_total_time() -> None:
    async def ever(writer: asyncio.StreamWriter, octets: bytes) -> None:
        while octets == b"never" and not writer.is_closing():
            writer.write(m.Progress().encode())
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(octets)

    async def main() -> None:
        async with (
            scripted({m.EndOfMessage: b"never"}, protocol=QUIET, write=ever) as one,
            scripted({m.EndOfMessage: EDIT}, protocol=QUIET) as two,
        ):
            times = {"content_timeout": 1.0, "total_timeout": 0.3}
            log = Log()
            chain = chain_of(
                one.options("m0", default_action="accept", **times), two.options("m1"), log=log
            )
            result = await walk(chain)
            assert isinstance(result, ChainResult)
            assert [name for name, _ in result.edits] == ["m1"]
            assert log.said("milter failed")[0]["detail"] == "no verdict within 0.3 s"

    run(main(), steady=True)


def test_what_goes_wrong_on_our_side_is_raised_where_the_message_is_waited_for() -> None:
    def observe(milter: str, stage: str, _seconds: float, _outcome: str) -> None:
        if (milter, stage) == ("m1", "message"):
            raise RuntimeError("no room for numbers")

    async def main() -> None:
        async with AsyncExitStack() as stack:
            milters = await served(stack, EDIT, EDIT, EDIT)
            options = [each.options(f"m{at}") for at, each in enumerate(milters)]
            chain = chain_of(*options, observe=observe)
            with pytest.raises(RuntimeError, match="no room"):
                await walk(chain)
            assert len(milters[2].sessions) == 1
            assert "EndOfMessage" not in milters[2].kinds

    run(main())


def test_an_edited_mail_shows_its_new_body_to_the_next() -> None:
    body = [m.ReplaceBodyChunk(b"new\r\n"), m.Continue()]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            one, two, three = await served(stack, EDIT, body, EDIT)
            chain = chain_of(*[each.options(f"m{at}") for at, each in enumerate((one, two, three))])
            await walk(chain, replace(MAIL, body=BytesBody(b"old\r\n")))
            shown = [
                b"".join(part.octets for part in each.events if isinstance(part, m.BodyChunk))
                for each in (one, two, three)
            ]
            assert shown == [b"old\r\n", b"old\r\n", b"new\r\n"]

    run(main())


@pytest.mark.parametrize("at", [0, 1])
def test_a_milter_that_hangs_up_between_its_edits_and_its_verdict_has_failed(at: int) -> None:
    """At once, with nothing of them taken, whether it is its turn or another is waited for."""

    async def cut_off(writer: asyncio.StreamWriter, octets: bytes) -> None:
        writer.write(octets)
        writer.close()

    async def main() -> None:
        edit = m.AddHeaderReply(b"X-Half", b"it").encode()
        async with (
            scripted({m.EndOfMessage: edit}, protocol=QUIET, write=cut_off) as half,
            scripted({m.EndOfMessage: EDIT}, protocol=QUIET) as whole,
        ):
            milters = [whole.options("whole")]
            milters.insert(at, half.options("half", default_action="accept"))
            log = Log()
            async with asyncio.timeout(4):
                result = await walk(chain_of(*milters, log=log))
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE
            assert [name for name, _ in result.edits] == ["whole"]
            assert "closed" in str(log.said("milter failed")[0]["detail"])

    run(main())
