"""`milterlab bench`: what it counts, what the milter hears from it, and what it costs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from milterd.core.mail import body_octets
from milterd.lab.bench.histogram import Histogram
from milterd.lab.bench.packets import message
from milterd.lab.bench.run import Bench, Plan, Round
from milterd.lab.cli import app
from milterd.lab.link import Fault, MilterError
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.milter import MilterConnection
from tests.host.conftest import Hosted, Hosting, kind, shared_hosting, shared_hosts, short_path
from tests.peers.process import answers, daemon, directory
from tests.wire.programs import pymilter, served

__all__ = ["kind", "shared_hosting", "shared_hosts", "short_path"]
BOUND = 0.15
"""Milliseconds of processor time that a mail of 4 kB and 10 headers may cost the client."""

invoke = CliRunner().invoke
Answer = Callable[[m.CommandMessage], Sequence[m.Reply]]

# --- the histogram ------------------------------------------------------------------------

durations = st.lists(
    st.integers(0, 2**20) | st.integers(0, 2**41) | st.integers(0, 41).map(lambda n: 2**n),
    min_size=1,
    max_size=200,
)


@settings(max_examples=200)
@given(durations, st.floats(0, 1))
def test_a_quantile_is_at_most_a_128th_above_the_true_one(values: list[int], share: float) -> None:
    histogram = Histogram()
    for each in values:
        histogram.record(each)
    rank = max(1, -int(-share * len(values) // 1))
    true = sorted(values)[rank - 1]
    assert true <= histogram.quantile(share) <= true + true / 128
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert (histogram.smallest, histogram.largest) == (min(values), max(values))
    assert histogram.quantile(1.0) == max(values)


@settings(max_examples=100)
@given(durations, durations)
def test_merging_is_counting_both(first: list[int], second: list[int]) -> None:
    one, two, both = Histogram(), Histogram(), Histogram()
    for value in first:
        one.record(value)
        both.record(value)
    for value in second:
        two.record(value)
        both.record(value)
    one.merge(two)
    shares = [n / 20 for n in range(21)]
    assert [one.quantile(each) for each in shares] == [both.quantile(each) for each in shares]
    assert list(one.octaves()) == list(both.octaves())
    assert (one.smallest, one.largest, one.total) == (both.smallest, both.largest, both.total)


@given(durations, st.sampled_from([1, 2, 4, 128]))
def test_the_wide_boxes_hold_all(values: list[int], parts: int) -> None:
    histogram = Histogram()
    for each in values:
        histogram.record(each)
    boxes = list(histogram.octaves(parts))
    assert sum(count for _, count in boxes) == len(values)
    assert [upper for upper, _ in boxes] == sorted({upper for upper, _ in boxes})
    below = 0
    for upper, count in boxes:
        below += count
        assert below == sum(each <= upper for each in values)


def test_what_is_out_of_range_counts_at_the_end() -> None:
    histogram = Histogram()
    for each in (-5, 2**50):
        histogram.record(each)
    assert (histogram.smallest, histogram.largest) == (0, 2**42 - 1)
    assert Histogram().quantile(0.5) == Histogram().smallest == 0
    assert list(Histogram().octaves()) == []


# --- what it says, and what it makes of the answers -----------------------------------------


@given(st.integers(0, 300_000), st.integers(0, 30))
@settings(max_examples=50)
def test_a_message_is_as_long_as_was_asked_for(size: int, headers: int) -> None:
    mail = message(size, headers)
    assert len(mail.headers) == headers
    head = mail.size - mail.body.size
    assert mail.size in (size, size - 1, size - 2) or size < mail.size <= head + 50
    assert body_octets(mail.body).replace(b"\r\n", b"").count(b"\r") == 0
    assert body_octets(mail.body).endswith(b"\r\n")


def _round(address: str, **plan: object) -> Round:
    given = {"connections": 2, "messages": 20, "duration": 20.0, "answer": 10.0, **plan}
    return uvloop.run(Bench(Plan(**given)).round(address))  # type: ignore[arg-type]


def _continue(_event: m.CommandMessage) -> Sequence[m.Reply]:
    return [m.Continue()]


def _told(heard: Sequence[m.CommandMessage]) -> list[type[m.CommandMessage]]:
    return [type(each) for each in heard if not isinstance(each, m.Macros)]


@pytest.mark.parametrize("flags", [Protocol.NONE, Protocol(0xFF080), Protocol.NR_HDR])
def test_the_milter_hears_whole_sessions_as_from_postfix(flags: Protocol) -> None:
    with served(lambda: MilterConnection(accept_protocol=flags), _continue) as milter:
        found = _round(milter.address, connections=1, messages=5, keep=3, size=70_000)
    mail = [m.MailFrom, m.RcptTo, m.Data, *[m.Header] * 10, m.EndOfHeaders, m.BodyChunk]
    mail += [m.BodyChunk, m.EndOfMessage, m.Abort]
    begin, end = [m.Negotiate, m.Connect, m.Helo], [m.Abort, m.Quit]
    assert _told(milter.heard) == [*begin, *mail * 3, *end, *begin, *mail * 2, *end]
    assert found.mails == 5
    assert found.verdicts == {("end of message", "continue"): 5}
    assert found.whole.count == found.stages["end of message"].count == 5
    headers = 0 if flags & Protocol.NR_HDR else 50
    assert found.stages["header"].count == headers
    assert found.stages["negotiate"].count == 2


def test_no_two_mails_are_alike() -> None:
    with served(MilterConnection, _continue) as milter:
        _round(milter.address, connections=1, messages=8, keep=4)
    bodies = [each.octets for each in milter.heard if isinstance(each, m.BodyChunk)]
    ids = [e.value for e in milter.heard if isinstance(e, m.Header) and e.name == b"Message-ID"]
    assert len(set(bodies)) == len(set(ids)) == 8
    assert all(len(each) == len(bodies[0]) for each in bodies)
    assert not any(b"@@" in each for each in [*bodies, *ids])


@pytest.mark.parametrize(
    ("at", "reply", "count"),
    [
        (m.MailFrom, m.Reject(), 0),
        (m.RcptTo, m.TempFail(), 0),
        (m.RcptTo, m.Accept(), 0),
        (m.Data, m.ReplyCode(b"554 5.7.1 no"), 0),
        (m.Header, m.Discard(), 1),
        (m.Header, m.Skip(), 1),
        (m.BodyChunk, m.Skip(), 10),
        (m.EndOfMessage, m.Accept(), 10),
        (m.EndOfMessage, m.Shutdown(), 10),
    ],
)
def test_a_verdict_ends_a_mail_and_a_skip_what_is_like_it(
    at: type[m.CommandMessage], reply: m.Reply, count: int
) -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [reply] if isinstance(event, at) else [m.Continue()]

    with served(lambda: MilterConnection(accept_protocol=Protocol.SKIP), answer) as milter:
        found = _round(milter.address, connections=1, messages=4, size=150_000)
    told = _told(milter.heard)
    skipped = isinstance(reply, m.Skip)
    stage = "end of message" if skipped else Bench_stage[at]
    name = "continue" if skipped else type(reply).__name__.lower()
    assert found.verdicts == {(stage, name): 4}
    assert told.count(m.Header) == 4 * count
    assert told.count(m.Abort) >= 4
    if isinstance(reply, m.Skip) and at is m.BodyChunk:
        assert told.count(m.BodyChunk) == 4
    assert told.count(m.Negotiate) == (4 if isinstance(reply, m.Shutdown) else 1)


Bench_stage = {
    m.MailFrom: "mail", m.RcptTo: "rcpt", m.Data: "data", m.Header: "header",
    m.BodyChunk: "body", m.EndOfMessage: "end of message", m.Connect: "connect", m.Helo: "helo",
}  # fmt: skip


@pytest.mark.parametrize("at", [m.Connect, m.Helo])
def test_a_session_that_is_settled_at_once_counts_as_a_mail(at: type[m.CommandMessage]) -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [m.Accept()] if isinstance(event, at) else [m.Continue()]

    with served(MilterConnection, answer) as milter:
        found = _round(milter.address, connections=1, messages=3)
    assert found.verdicts == {(Bench_stage[at], "accept"): 3}
    assert _told(milter.heard).count(m.Negotiate) == 3
    assert m.Quit not in _told(milter.heard)


def test_edits_progress_and_pieces_of_answers() -> None:
    edits = [m.AddHeaderReply(b"X", b"y"), m.Progress(), m.ReplaceBodyChunk(b"z" * 60_000)]

    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [*(edits if isinstance(event, m.EndOfMessage) else []), m.Continue()]

    def make() -> MilterConnection:
        return MilterConnection(accept_actions=Actions.ADDHDRS | Actions.CHGBODY)

    with served(make, answer) as milter:
        found = _round(milter.address)
    assert found.verdicts == {("end of message", "continue"): 20}
    assert found.violations == {}
    with pymilter() as (path, _):
        found = _round(f"unix:{path}", messages=10, size=200_000)
    assert found.verdicts == {("end of message", "continue"): 10}
    assert found.stages["body"].count == 20  # of four pieces it skips two


def test_every_event_is_answered_if_asked(shared_hosting: Hosting) -> None:
    host: Hosted = shared_hosting("script")
    plain = _round(f"unix:{host.address}")
    every = _round(f"unix:{host.address}", every_answer=True)
    assert plain.stages["header"].count == plain.stages["mail"].count == 0
    assert every.stages["header"].count == 200
    assert plain.mails == every.mails == every.stages["mail"].count == 20


def test_many_connections_at_once() -> None:
    with quick() as address:
        found = _round(address, connections=200, messages=1000, keep=2)
    assert found.mails == 1000
    assert found.stages["negotiate"].count >= 500


# --- faults --------------------------------------------------------------------------------

AGREED = m.Negotiate(6, Actions.NONE, Protocol.NONE).encode()
GOOD = m.Continue().encode()


async def _against(script: Sequence[bytes], hold: bool) -> Round:
    """A bench of a peer that answers the first packets so, and then closes or holds."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in script:
            await reader.read(65536)
            writer.write(each)
        await (reader.read(-1) if hold else reader.read(65536))
        writer.close()

    with directory("bench") as home:
        async with await asyncio.start_unix_server(handle, home / "s"):
            plan = Plan(connections=1, messages=5, answer=0.4, duration=20, every_answer=True)
            return await Bench(plan).round(f"unix:{home / 's'}")


@pytest.mark.parametrize(
    ("script", "hold", "fault", "said"),
    [
        ([], False, Fault.GONE, "at negotiate, octet 0 .*closed|reset"),
        ([b"HTTP/1.1 400 Bad\r\n"], True, Fault.BROKEN, "at negotiate, octet 0 .*frame of"),
        ([AGREED + GOOD], True, Fault.BROKEN, "nobody asked for"),
        ([AGREED, GOOD + GOOD], True, Fault.BROKEN, "at connect.* more after the answer"),
        ([AGREED, m.Skip().encode()], True, Fault.BROKEN, "Skip in answer to Connect"),
        ([AGREED, GOOD, b"\0\0\0\1Z"], True, Fault.BROKEN, "at helo, octet 22 .*unknown reply"),
        ([AGREED, m.AddHeaderReply(b"X", b"y").encode()], True, Fault.BROKEN, "AddHeaderReply in"),
        ([AGREED, GOOD], True, Fault.SILENT, "silent at helo, octet 22 .*within 0.4 s"),
        ([AGREED, GOOD[:3]], True, Fault.SILENT, "silent at connect, octet 17"),
        ([AGREED, GOOD], False, Fault.GONE, "connection lost at helo"),
    ],
)
def test_a_milter_at_fault_ends_it(
    script: list[bytes], hold: bool, fault: Fault, said: str
) -> None:
    with pytest.raises(MilterError, match=said) as caught:
        asyncio.run(_against(script, hold))
    assert caught.value.fault is fault


def test_nobody_there() -> None:
    result = invoke(app, ["bench", "unix:/nowhere/s", "--rounds", "1"])
    assert result.exit_code == 5
    assert "no connection to unix:/nowhere/s" in result.stderr


# --- the command ---------------------------------------------------------------------------


@contextmanager
def quick(flags: int = 0) -> Iterator[str]:
    """quick_milter.py as a process of its own; its address."""
    with directory("quick") as home:
        path = home / "s"
        program = str(Path(__file__).with_name("quick_milter.py"))
        command = [sys.executable, program, str(path), str(flags)]
        top = str(Path(__file__).parents[2])
        with daemon("quick", command, home, lambda: answers(path), environ={"PYTHONPATH": top}):
            yield f"unix:{path}"


SHORT = ["--duration", "0.1", "--rounds", "2", "--connections", "2"]


def test_the_report_for_a_reader() -> None:
    with quick() as address:
        result = invoke(app, ["bench", address, *SHORT, "--size", "4k,100k"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [each for each in lines if each == address] == [address] * 2
    assert "  102400 octets, 10 headers, 2 connections, 10 mails each; " in result.stdout
    for stage in ("negotiate", "connect", "helo", "header", "end of message", "whole mail"):
        assert sum(each.startswith(f"  {stage} ") for each in lines) == 2
    assert sum("client CPU per mail" in each for each in lines) == 2
    assert any(each.startswith("  up to") and "█" in each for each in lines)
    assert "\x1b" not in result.output


def test_two_in_turns_as_json() -> None:
    with quick() as one, quick(0xFF080) as other:
        result = invoke(app, ["bench", one, other, *SHORT, "--json"])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    first, second = found["milters"]
    assert (first["socket"], second["socket"]) == (one, other)
    assert "header" in first["stages"]
    assert "header" not in second["stages"]
    for each in (first, second):
        assert each["verdicts"] == [
            {"stage": "end of message", "reply": "continue", "mails": each["mails"]}
        ]
        assert sum(count for _, count in each["histogram"]) == each["mails"]
        whole = each["stages"]["whole mail"]
        assert whole["p50"]["median"] <= whole["p99"]["median"] <= whole["max"]["most"]
        assert each["client_cpu_ms"]["least"] > 0
    assert found["ratio"]["mails a second"]["median"] > 1  # one answer a mail instead of 17


@pytest.mark.parametrize(
    "options", [["--size", "x"], ["--size", "4k,"], ["--size", "999M"], ["--connections", "0"]]
)
def test_usage(options: list[str]) -> None:
    assert invoke(app, ["bench", "unix:/nowhere/s", *options]).exit_code == 2
    assert invoke(app, ["bench", "nonsense"]).exit_code == 2


# --- what the client's side costs ------------------------------------------------------------


def least_cost(address: str, **plan: object) -> float:
    """Milliseconds of processor time a mail, of the cheapest of many short rounds.

    The least, since everything else that runs on this machine can only add to it: so
    it ends with the first round that is below the bound.
    """

    async def measure() -> float:
        bench = Bench(Plan(size=4096, headers=10, keep=100, duration=0.25, **plan))  # type: ignore[arg-type]
        await bench.round(address)
        least = float("inf")
        for _ in range(60):
            found = await bench.round(address)
            least = min(least, found.cpu / max(found.mails, 1) * 1000)
            if least < BOUND:
                break
        return least

    return uvloop.run(measure())


@pytest.mark.parametrize("kind", ["native"], indirect=True)
def test_the_client_costs_little_beside_our_own_host(
    kind: str, shared_hosting: Hosting, capsys: pytest.CaptureFixture[str]
) -> None:
    """A milter that does nothing, on the native host in another process."""
    cost = least_cost(f"unix:{shared_hosting('mirror-less').address}")
    with capsys.disabled():
        print(f"\nclient CPU per mail, one answer: {cost:.3f} ms")
    assert cost < BOUND


def test_the_client_costs_little_where_every_event_is_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with quick() as address:
        cost = least_cost(address)
    with capsys.disabled():
        print(f"\nclient CPU per mail, 17 answers: {cost:.3f} ms")
    assert cost < BOUND
