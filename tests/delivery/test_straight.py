"""Mail that goes from its commit over an open connection without a task: it fares as any other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.mail import Mail
from smtpgw.courier import CourierOptions
from smtpgw.delivery import content
from smtpgw.delivery.emit import DotStuffer, stuffed
from smtpgw.delivery.limits import LimitTable, ServiceLimits
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.replies import BadReply, Reply, ReplyParser
from smtpgw.delivery.windows import WindowOptions
from smtpgw.delivery.wire import Lost, Wire
from smtpgw.dsn.report import DsnOptions
from smtpgw.queue.manager import ManagerOptions
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.delivery.peer import CLOSE, STALL, Peer, Road, listening, pool, road
from tests.queue.support import message, run, until

DATA_OK = b"354 go\r\n"
DOT_OK = b"250 2.0.0 stored\r\n"


@contextlib.asynccontextmanager
async def _warm(tmp_path: Path, where: Destination, **more: Any) -> AsyncIterator[Road]:
    """A road with an open connection, that makes no task for an attempt any more."""
    async with road(tmp_path, where, **more) as way:
        assert way.store.room(0)
        await until(lambda: way.courier.direct.take("", 0) is not None)
        way.courier.direct.miss("", 0)
        await way.accept(message(b"first\r\n"))
        await until(lambda: way.seen)
        await until(lambda: not way.courier.active)
        way.seen.clear()
        yield way


def _no_tasks(way: Road) -> None:
    async def none(*_: object) -> None:
        raise AssertionError

    way.courier._attempt = none  # type: ignore[method-assign]


def _small() -> Mail:
    return message(b"second\r\n")


@pytest.mark.parametrize("size", [60, 60_000, 250_000])
def test_no_task_is_made_where_none_is_needed(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, _warm(tmp_path, where) as way:
            _no_tasks(way)
            text = (b".x" * 20 + b"\r\n.\r\n") * (size // 45)
            for _ in range(3):
                await way.accept(message(text))
                await way.wait_empty()
            assert way.seen == [("lmtp", "delivered")] * 3
            sent = text.replace(b"\r\n.", b"\r\n..") + b".\r\n"
            assert [each.endswith(b"\r\n\r\n." + sent) for each in peer.messages[1:]] == [True] * 3
            assert peer.connections == 1

    run(scenario())


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ({"MAIL": b"550 5.7.1 no\r\n"}, "failed"),  # by a second connection, which asks again
        ({"RCPT": b"450 4.2.0 later\r\n"}, "deferred"),
        ({"RCPT": b"550 5.1.1 nobody\r\n", "DATA": b"554 5.5.1 no one\r\n"}, "failed"),
        ({"RCPT": b"550 5.1.1 nobody\r\n"}, "failed"),
        ({"DATA": b"451 4.3.0 later\r\n"}, "deferred"),
        ({"DATA": DATA_OK + b"452 4.3.1 full\r\n"}, "deferred"),
        ({"DOT": b"452 4.3.1 full\r\n"}, "deferred"),
        ({"DOT": b"552 5.2.2 too much\r\n"}, "failed"),
        ({"DOT": b"nonsense\r\n"}, "deferred"),
        ({"DOT": CLOSE}, "deferred"),
        ({"DATA": CLOSE}, "deferred"),
        ({"RCPT": b"421 4.3.2 bye\r\n" + CLOSE}, "deferred"),
    ],
)
def test_what_a_peer_says_counts(tmp_path: Path, answers: dict[str, bytes], outcome: str) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, _warm(tmp_path, where) as way:
            peer.answers.update(answers)
            await way.accept(_small())
            await until(lambda: way.seen)
            await until(lambda: not way.courier.active)
            assert way.seen[0] == ("lmtp", outcome)
            states = [each.state for each in await way.store.list(Filter()) if each.sender]
            assert states == [MailState.DEFERRED] * (outcome == "deferred")
            assert not way.courier._windows._windows or outcome == "deferred"

    run(scenario())


@pytest.mark.parametrize("how", ["hang up", "421", "out of step"])
def test_a_dead_connection_is_replaced_and_nobody_is_told(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        ok = b"250 ok\r\n"
        peer = Peer()
        async with listening(peer) as where, _warm(tmp_path, where) as way:
            if how == "hang up":
                peer.hang_up()
            else:
                first = b"421 4.3.2 bye\r\n" if how == "421" else b"503 5.5.1 now?\r\n"
                peer.answers["MAIL"] = [first + CLOSE, ok]
            await way.accept(_small())
            await way.wait_empty()
            assert way.seen == [("lmtp", "delivered")]
            assert peer.connections == 2
            assert len(peer.messages) == 2

    run(scenario())


def test_a_lease_bounds_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        limits = ManagerOptions(lease_time=0.3, poll=0.02)
        async with listening(peer) as where, _warm(tmp_path, where, manager_options=limits) as way:
            peer.answers["DOT"] = STALL
            _no_tasks(way)
            queue_id = await way.accept(_small())
            await until(lambda: way.seen)
            await until(lambda: not way.courier.active)
            shown = await way.store.show(queue_id)
            assert shown.recipients[0].text == "delivery took longer than its lease"

    run(scenario())


@pytest.mark.parametrize("verb", ["MAIL", "DOT"])
def test_each_wait_has_its_limit(tmp_path: Path, verb: str) -> None:
    async def scenario() -> None:
        peer, short = Peer(), {f"lmtp_{'data_done' if verb == 'DOT' else 'mail'}_timeout": 0.2}
        async with (
            listening(peer) as where,
            _warm(tmp_path, where, deliverers=pool(**short)) as way,
        ):
            peer.answers[verb] = STALL
            queue_id = await way.accept(_small())
            await until(lambda: way.seen)
            await until(lambda: not way.courier.active)
            shown = await way.store.show(queue_id)
            assert "timed out waiting for the reply" in shown.recipients[0].text

    run(scenario())


def test_a_stop_waits_for_it_and_then_breaks_it_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, _warm(tmp_path, where) as way:
            peer.answers["DOT"] = STALL
            _no_tasks(way)
            await way.accept(_small())
            await until(lambda: len(peer.messages) == 2)
            assert await way.courier.drain(0.1) == 1
            assert way.courier.active == 0
            (left,) = await way.store.list(Filter())
            assert left.state is MailState.DEFERRED
            assert left.due == left.born, "another may try it now"
            assert not way.seen

    run(scenario())


def test_it_keeps_to_the_limit_of_its_destination(tmp_path: Path) -> None:
    """Two at once where two are allowed, and all of them at last."""

    async def scenario() -> None:
        peer = Peer()
        limits = LimitTable(ServiceLimits(WindowOptions(2, 2)))
        options = CourierOptions(limits=limits, pause=0.01, dsn=DsnOptions("gw.example"))
        async with listening(peer) as where, _warm(tmp_path, where, options=options) as way:
            for number in range(40):
                await way.accept(message(b"%d\r\n" % number))
            await way.wait_empty()
            assert len(peer.messages) == 41
            assert peer.connections <= 2

    run(scenario())


def test_who_stands_in_line_is_bounded_by_the_lease_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        options = CourierOptions(limits=_one(), pause=0.01, dsn=DsnOptions("gw.example"))
        leases = ManagerOptions(lease_time=0.3, poll=0.02)
        async with (
            listening(peer) as where,
            _warm(tmp_path, where, options=options, manager_options=leases) as way,
        ):
            peer.answers["DOT"] = STALL
            ids = [await way.accept(_small()) for _ in range(3)]
            await until(lambda: len(way.seen) == 3)
            await until(lambda: not way.courier.active)
            for each in ids:
                shown = await way.store.show(each)
                assert shown.recipients[0].text == "delivery took longer than its lease"

    run(scenario())


def test_a_stop_breaks_the_line_off_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        options = CourierOptions(limits=_one(), pause=0.01, dsn=DsnOptions("gw.example"))
        async with listening(peer) as where, _warm(tmp_path, where, options=options) as way:
            peer.answers["DOT"] = STALL
            _no_tasks(way)
            for _ in range(3):
                await way.accept(_small())
            await until(lambda: way.courier.active == 3)
            assert await way.courier.drain(0.1) == 3
            states = [each.state for each in await way.store.list(Filter())]
            assert states == [MailState.DEFERRED] * 3
            assert not way.courier._windows._windows

    run(scenario())


def test_who_comes_out_of_the_line_to_a_lost_connection_gets_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        options = CourierOptions(limits=_one(), pause=0.01, dsn=DsnOptions("gw.example"))
        async with listening(peer) as where, _warm(tmp_path, where, options=options) as way:
            peer.answers["DOT"] = [DOT_OK + CLOSE, DOT_OK]
            for _ in range(4):
                await way.accept(_small())
            await way.wait_empty()
            assert way.seen == [("lmtp", "delivered")] * 4
            assert len(peer.messages) == 5
            assert peer.connections == 2

    run(scenario())


def _one() -> LimitTable:
    return LimitTable(ServiceLimits(WindowOptions(1, 1)))


def test_soft_bounce_is_for_it_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        options = CourierOptions(soft_bounce=True, pause=0.01, dsn=DsnOptions("gw.example"))
        async with listening(peer) as where, _warm(tmp_path, where, options=options) as way:
            peer.answers["DOT"] = b"550 5.7.1 no\r\n"
            queue_id = await way.accept(_small())
            await until(lambda: way.seen)
            await until(lambda: not way.courier.active)
            shown = await way.store.show(queue_id)
            assert shown.state is MailState.DEFERRED
            assert shown.recipients[0].enhanced == "4.7.1"

    run(scenario())


class _Slow(asyncio.Transport):
    """To a peer that reads so much between two looks."""

    def __init__(self, unsent: list[int]) -> None:
        super().__init__()
        self.unsent, self.aborted = unsent, False

    def get_write_buffer_size(self) -> int:
        return self.unsent.pop(0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(("unsent", "in_time"), [([9, 6, 5, 4, 3], True), ([9, 6, 6, 3], False)])
def test_each_part_of_a_large_message_has_its_time(unsent: list[int], in_time: bool) -> None:
    async def scenario() -> None:
        wire, transport = Wire(), _Slow(unsent)
        wire.connection_made(transport)
        wire.pause_writing()
        sending = asyncio.ensure_future(wire.send(b"x", 0.02, "the message"))
        await until(lambda: sending.done() or len(unsent) == 1)
        if in_time:
            wire.resume_writing()
            await sending
        else:
            with pytest.raises(Lost, match="timed out sending the message"):
                await sending
        assert transport.aborted is not in_time

    run(scenario())


_TEXT = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"a", b"\xe9", b"\0", b"x" * 20])
).map(b"".join)


@settings(max_examples=300)
@given(_TEXT)
def test_a_message_in_one_piece_is_the_same_message(text: bytes) -> None:
    stuffer = DotStuffer()
    assert stuffed(text) == stuffer.feed(text) + stuffer.finish()
    for limit in (0, 3, 30):
        assert content.look_at(text, limit) == content.look((text,), limit)


_LINES = st.sampled_from(
    [b"250 2.1.0 ok\r\n", b"250-a\r\n", b"250 b\n", b"354 go\r\n", b"25", b"0 c\r\n", b"999 x\r\n"]
)


@settings(max_examples=200)
@given(st.lists(st.lists(_LINES, max_size=4).map(b"".join), max_size=12))
def test_what_was_heard_before_means_the_same(pieces: list[bytes]) -> None:
    """A parser that remembers answers reads what one that sees all in one piece does."""
    apart, together = ReplyParser(), ReplyParser()
    assert _read(apart, pieces) == _read(together, [b"".join(pieces)])


def _read(parser: ReplyParser, pieces: list[bytes]) -> tuple[list[Reply], bool]:
    for each in pieces:
        try:
            parser.feed(each)
        except BadReply:
            return parser.replies, False
    return parser.replies, True


def test_a_fault_at_the_start_of_one_is_that_mails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task has an outcome for it; those behind it go on, and nothing stays taken."""

    async def scenario() -> None:
        peer = Peer()
        look, faults = content.look, ["a head that nobody thought of"]

        def faulty(octets: Iterable[bytes], limit: int) -> content.Traits:
            if faults:
                raise ValueError(faults.pop())
            return look(octets, limit)

        async with listening(peer) as where, _warm(tmp_path, where) as way:
            monkeypatch.setattr(content, "look", faulty)
            await asyncio.gather(*[way.accept(_small()) for _ in range(6)])
            await way.wait_empty()
            assert way.seen == [("lmtp", "delivered")] * 6
            assert not way.courier._windows._windows
            async with asyncio.timeout(5):
                await way.courier.direct.at_rest()
        assert len(peer.messages) == 7

    run(scenario())
