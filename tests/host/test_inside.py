"""A filter in its MTA's process that has to be waited for: threads, and files that others close."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from milterd.core.decision import Decision, Verdict
from milterd.core.filter import Need
from milterd.core.mail import BytesBody, FileBody, Mail, body_octets
from milterd.host.inside import AT_ONCE, Inside, Word
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.wire.messages import Reject
from tests.chain.scripted import until
from tests.chain.test_inside_alike import Full

LARGE = AT_ONCE + 1
PATIENCE = 30.0


@dataclass
class Slow:
    """Waits to be let go, then looks at the body."""

    name: str = "slow"
    needs: Need = Need.BODY
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Event = field(default_factory=threading.Event)
    seen: list[bytes] = field(default_factory=list)

    def gather(self, mail: Mail) -> None:
        self.begun.release()
        assert self.go.wait(PATIENCE)
        self.seen.append(body_octets(mail.body))

    def decide(self, _mail: Mail, _facts: object) -> Decision:
        return Decision(Verdict.REJECT)


def inside(filter_: Slow, log: Full, **options: object) -> Inside:
    around = Surroundings(log, lambda: "trace")
    return Inside(Judge(filter_, Options(**options), around), around)  # type: ignore[arg-type]


def file_of(octets: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - tests close it at the worst time
    file.write(octets)
    file.flush()
    return file


async def begun(filter_: Slow) -> None:
    assert await asyncio.to_thread(filter_.begun.acquire, timeout=PATIENCE)


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), PATIENCE))  # type: ignore[arg-type]


def open_files() -> set[str]:
    return {str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


def test_a_thread_reads_its_mail_though_the_session_has_closed_its_file() -> None:
    slow, log, mine = Slow(), Full(), b"m" * LARGE

    async def main() -> None:
        file = file_of(mine)
        heard = asyncio.get_running_loop().create_future()
        word, call_off = inside(slow, log).ask(
            Mail(body=FileBody(file, 0, LARGE)), {}, {}, heard.set_result
        )
        assert word is None
        assert call_off is not None
        await begun(slow)
        number = file.fileno()
        file.close()
        with file_of(b"o" * LARGE) as other:
            assert other.fileno() == number  # another mail's has its place by now
            slow.go.set()
            reply, _, _ = await heard
        assert type(reply) is Reject

    run(main)
    assert slow.seen == [mine]
    assert log.said("failure") == []


def test_what_waits_for_a_thread_and_is_called_off_gets_none() -> None:
    slow, log = Slow(), Full()

    async def main() -> None:
        one = inside(slow, log, threads=1)
        words: list[Word] = []
        mails = [Mail(body=BytesBody(each)) for each in (b"one", b"two", b"three")]
        asked = [one.ask(each, {}, {}, words.append)[1] for each in mails]
        await begun(slow)
        for each in asked[:2]:  # one that has a thread, one that waits
            assert each is not None
            each()
        await asyncio.sleep(0)  # the pool hears of it in the loop's next turn
        slow.go.set()
        await until(lambda: words)
        assert len(words) == 1

    run(main)
    assert slow.seen == [b"one", b"three"]
    assert log.said("failure") == []


def test_a_time_that_runs_out_after_the_call_off_is_no_failure() -> None:
    slow, log = Slow(), Full()

    async def main() -> None:
        one = inside(slow, log, threads=1, judge_time=0.01)
        _, call_off = one.ask(Mail(), {}, {}, lambda _: None)
        assert call_off is not None
        call_off()
        due = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, due.set_result, None)  # behind the other
        await due
        slow.go.set()

    run(main)
    assert log.said("failure") == []


def test_a_time_that_runs_out_is_one_failure_and_the_late_word_is_for_nobody() -> None:
    slow, log = Slow(), Full()

    async def main() -> None:
        words: list[Word] = []
        one = inside(slow, log, threads=1, judge_time=0.01)
        one.ask(Mail(), {}, {}, words.append)
        await until(lambda: words)
        slow.go.set()
        later = asyncio.get_running_loop().create_future()
        one.ask(Mail(), {}, {}, later.set_result)
        await later
        assert len(words) == 1

    run(main)
    assert [each["kind"] for each in log.said("failure")] in (["filter"], ["filter"] * 2)


@pytest.mark.parametrize("called_off", [False, True])
def test_nothing_of_it_stays_when_nobody_has_it_any_more(called_off: bool) -> None:
    slow, log = Slow(), Full()
    before = open_files()
    threads = threading.active_count()

    async def main() -> None:
        one = inside(slow, log)
        gone = weakref.ref(one)
        heard = asyncio.get_running_loop().create_future()
        with file_of(b"m" * LARGE) as file:
            mail = Mail(body=FileBody(file, 0, LARGE))
            _, call_off = one.ask(mail, {}, {}, heard.set_result)
            await begun(slow)
        if called_off:
            assert call_off is not None
            call_off()
        slow.go.set()
        if not called_off:
            await heard
        del one, mail, call_off, heard
        # begun() has one
        await until(lambda: gone() is None and threading.active_count() <= threads + 1)

    gc.disable()  # references alone do it
    try:
        run(main)
    finally:
        gc.enable()
    assert open_files() <= before


def test_no_descriptor_to_be_had_is_a_failure_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Full()

    def dup(_: int) -> int:
        raise OSError(24, "Too many open files")

    with file_of(b"m" * LARGE) as file:
        monkeypatch.setattr("milterd.host.inside.os.dup", dup)
        word, _ = inside(Slow(), log).ask(Mail(body=FileBody(file, 0, LARGE)), {}, {}, print)
    assert word is not None
    assert [each["kind"] for each in log.said("failure")] == ["spool"]
