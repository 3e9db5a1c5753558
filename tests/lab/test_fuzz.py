"""`milterlab fuzz`: planted bugs are found, shrunk to the packets that matter, and found again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from milterd.base.sockets import parse
from milterd.lab.cli import app
from milterd.lab.fuzz import generate
from milterd.lab.fuzz.conversation import Conversation, Ending, Write, load, save
from milterd.lab.fuzz.hunt import Finding, Hunt, Plan
from milterd.lab.fuzz.mutate import fragment, mutate
from milterd.lab.fuzz.process import ByCommand, ByNumber, ProcessError
from milterd.lab.fuzz.referee import Look, Referee, decoded
from milterd.lab.fuzz.shrink import shrink
from milterd.wire import messages as m
from milterd.wire.milter import MilterConnection
from tests.host.conftest import Hosted, Hosting, kind, shared_hosting, shared_hosts
from tests.peers.process import directory

__all__ = ["kind", "shared_hosting", "shared_hosts"]

invoke = CliRunner().invoke
PROGRAM = str(Path(__file__).with_name("buggy_milter.py"))


@pytest.fixture
def home() -> Iterator[Path]:
    with directory("fuzz") as path:
        yield path


def _command(home: Path, bug: str) -> list[str]:
    # -S and -I: a quick start, since it is started again after each death.
    return [sys.executable, "-I", "-S", PROGRAM, str(home / "s"), bug]


def _hunt(home: Path, bug: str, **plan: object) -> Hunt:
    target = parse(f"unix:{home / 's'}")
    given = {"seed": 1, "runs": 300, "answer": 1.0, "most": 1, "out": home, **plan}
    hunt = Hunt(target, Plan(**given), ByCommand(_command(home, bug), target))  # type: ignore[arg-type]
    asyncio.run(hunt.run())
    return hunt


def _kinds(found: Finding) -> list[type[m.CommandMessage]]:
    """The packets of the shrunk conversation."""
    return [type(e) for write in found.conversation.writes for e in decoded(write.octets)]


# --- planted bugs ---------------------------------------------------------------------------

BEGIN = [m.Negotiate, m.Connect]


@pytest.mark.parametrize(
    ("bug", "kind", "stage", "packets"),
    [
        ("empty-name", "died", "header", [m.Header]),
        ("helo-twice", "silent", "helo", [*BEGIN, m.Helo, m.Helo]),
        ("third-rcpt", "broken", "rcpt", [*BEGIN, m.MailFrom, *[m.RcptTo] * 3]),
        ("two-recipients", "closed", "data", [*BEGIN, m.MailFrom, *[m.RcptTo] * 2, m.Data]),
        ("second-offer", "deaf", "negotiate", [m.Negotiate, m.Negotiate]),
    ],
)
def test_a_planted_bug_is_found_shrunk_and_found_again(
    home: Path, bug: str, kind: str, stage: str, packets: list[type[m.CommandMessage]]
) -> None:
    hunt = _hunt(home, bug)
    (found,) = hunt.findings
    assert (found.wrong.kind, found.wrong.stage) == (kind, stage), found
    assert found.confirmed
    assert _kinds(found) == packets
    assert found.conversation.size <= 17 * packets.count(m.Negotiate) + 8 * len(packets)

    target = parse(f"unix:{home / 's'}")
    again = Hunt(
        target,
        Plan(runs=0, answer=1.0, tries=0, out=home),
        ByCommand(_command(home, bug), target),
        load(found.tape),
    )
    asyncio.run(again.run())
    assert [each.wrong.key for each in again.findings] == [found.wrong.key]
    sound = Hunt(
        target,
        Plan(runs=0, answer=1.0, out=home),
        ByCommand(_command(home, "none"), target),
        load(found.tape),
    )
    asyncio.run(sound.run())
    assert sound.findings == []


def test_a_milter_that_does_not_notice_the_end_is_stuck(home: Path) -> None:
    (found,) = _hunt(home, "long-length").findings
    assert found.wrong.kind == "stuck"
    assert found.confirmed
    assert found.conversation.size <= 30
    octets, at = b"".join(each.octets for each in found.conversation.writes), 0
    while (length := int.from_bytes(octets[at : at + 4], "big")) <= 0x10000:
        assert at < len(octets), "no packet with a length that no milter need take"
        at += length + 4


def test_a_milter_that_stays_after_a_good_conversation_is_stuck_too(home: Path) -> None:
    hunt = _hunt(home, "stays", answer=0.5)
    (found,) = hunt.findings
    assert (found.wrong.key, found.confirmed, hunt.runs) == (("stuck", "quit"), True, 0)


def test_a_leak_is_found_and_shrunk(home: Path) -> None:
    (found,) = _hunt(home, "leak", runs=600, memory=12 << 20).findings
    assert found.wrong.kind == "memory"
    assert found.confirmed
    assert m.Unknown in _kinds(found)
    assert len(_kinds(found)) <= 3
    assert "KiB each time" in found.wrong.what


def test_a_milter_without_a_bug_has_no_finding(home: Path) -> None:
    hunt = _hunt(home, "none", runs=80)
    assert (hunt.runs, hunt.findings) == (80, [])


def test_a_milter_that_is_wrong_to_begin_with(home: Path) -> None:
    target = parse(f"unix:{home / 's'}")
    hunt = Hunt(target, Plan(runs=1), ByCommand([sys.executable, "/nowhere.py"], target))
    with pytest.raises(ProcessError, match="ended with status 2"):
        asyncio.run(hunt.run())
    hunt = Hunt(target, Plan(runs=1), ByNumber(2**22 - 1))
    with pytest.raises(ProcessError, match="there is no process"):
        asyncio.run(hunt.run())


# --- our own hosts --------------------------------------------------------------------------


def test_our_hosts_have_no_finding(home: Path, kind: str, shared_hosting: Hosting) -> None:
    """The native host stands everything.  libmilter itself reads past the end of a macro
    packet that has a name without a value, and dies of it now and then: no MTA sends
    one, and no program on libmilter can help it."""
    host: Hosted = shared_hosting("script")
    plan = Plan(seed=3, runs=150, answer=10.0, out=home, legal=kind == "libmilter")
    hunt = Hunt(parse(f"unix:{host.address}"), plan, ByNumber(host.process.pid))
    asyncio.run(hunt.run())
    assert hunt.findings == []
    assert hunt.runs == 150


# --- conversations --------------------------------------------------------------------------

randoms = st.integers(0, 2**32).map(Random)


@given(randoms)
@settings(max_examples=150)
def test_a_legal_conversation_is_legal(random: Random) -> None:
    """As long as the milter goes on, for a milter that wants every event."""
    conversation = generate.legal(random)
    referee, milter = Referee(), MilterConnection()
    for each in conversation.writes:
        look = referee.look(each.octets)
        assert look is not Look.ILLEGAL or _left_out(each), (referee.stage, each)
        if look is not Look.LEGAL:
            continue
        referee.sent(each.octets, look)
        milter_says = b""
        events = milter.receive(each.octets)
        while events:
            if isinstance(events[-1], m.Negotiate):
                milter_says += milter.negotiate()
            elif milter.reply_due:
                milter_says += milter.reply(m.Continue())
            events = milter.receive()
        if milter_says:
            referee.heard(milter_says)
        assert referee.legal
        assert not referee.awaiting


def _left_out(write: Write) -> bool:
    """DATA or UNKNOWN in a version that has none, or what follows QUIT."""
    return not decoded(write.octets) or isinstance(
        decoded(write.octets)[-1], (m.Data, m.Unknown, m.Abort)
    )


@given(randoms)
@settings(max_examples=100)
def test_fragments_are_the_same_octets(random: Random) -> None:
    conversation = generate.legal(random)
    cut = fragment(conversation, random)
    for whole, pieces in zip(conversation.writes, cut.writes, strict=True):
        assert b"".join(pieces.pieces()) == whole.octets
        assert all(pieces.pieces())


def test_a_seed_and_a_number_are_a_conversation(home: Path) -> None:
    def made(seed: int) -> list[Conversation]:
        hunt = Hunt(parse("unix:/s"), Plan(seed=seed, runs=40), ByNumber(os.getpid()))
        return list(hunt._conversations())

    assert made(5) == made(5) != made(6)
    assert len(set(made(5))) > 35


@given(randoms)
@settings(max_examples=100)
def test_every_conversation_survives_its_tape(random: Random) -> None:
    made = mutate(generate.legal(random), random)
    with directory("tape") as home:
        said = [("mta", piece) for each in made.writes for piece in each.pieces()]
        save(home / "t", made, said, "a note")  # type: ignore[arg-type]
        loaded = load(home / "t")
    sent = tuple(each for each in made.writes if each.octets)
    if not sent:
        assert loaded == []
        return
    (again,) = loaded
    assert [list(each.pieces()) for each in again.writes] == [list(e.pieces()) for e in sent]
    assert again.ending is made.ending


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.data())
@settings(max_examples=60)
def test_shrinking_keeps_what_matters(codes: list[int], data: st.DataObject) -> None:
    needed = data.draw(st.lists(st.sampled_from(codes), min_size=1, max_size=3))
    writes = tuple(Write(b"\0\0\0\1" + bytes([each])) for each in codes)

    async def fails(smaller: Conversation) -> bool:
        left = iter(smaller.writes)
        wanted = sorted(needed, key=codes.index)
        return all(any(each.octets[-1:] == bytes([code]) for each in left) for code in set(wanted))

    async def run() -> Conversation:
        start = Conversation(writes, Ending.DROP)
        return await shrink(start, fails, 2000) if await fails(start) else start

    best = asyncio.run(run())
    assert asyncio.run(fails(best)) or len(best.writes) == len(writes)


# --- the command ----------------------------------------------------------------------------


def test_the_command(home: Path) -> None:
    command = " ".join(_command(home, "third-rcpt"))
    out = home / "out"
    out.mkdir()
    options = ["--command", command, "--out", str(out), "--timeout", "1"]
    found = invoke(app, ["fuzz", f"unix:{home / 's'}", *options, "--runs", "60", "--seed", "1"])
    assert found.exit_code == 1, found.output
    tape = out / "finding-broken-1.tape"
    assert f"{tape}: broken at rcpt: " in found.stdout
    assert f"milterlab fuzz unix:{home / 's'} --tapes {tape} --runs 0" in found.stdout
    assert invoke(app, ["show", str(tape)]).exit_code == 0

    again = [*options, "--tapes", str(tape), "--runs", "0", "--tries", "0", "--json"]
    result = invoke(app, ["fuzz", f"unix:{home / 's'}", *again])
    assert result.exit_code == 1
    (one,) = json.loads(result.stdout)["findings"]
    assert (one["kind"], one["stage"], one["run"]) == ("broken", "rcpt", 1)


def test_usage(home: Path) -> None:
    def status(*options: str) -> int:
        return invoke(app, ["fuzz", f"unix:{home / 's'}", *options]).exit_code

    assert status("--tapes", f"{home}/none") == 2
    assert status("--out", f"{home}/none") == 2
    assert status("--pid", "1", "--command", "x") == 2
    assert status("--command", "'") == 2
    assert invoke(app, ["fuzz", "nonsense"]).exit_code == 2
    (home / "text").write_text("no tape")
    assert status("--tapes", f"{home}/text") == 2
    assert status("--command", "/nowhere/milter") == 5
    assert status("--runs", "1", "--timeout", "0.5", "--out", str(home)) == 1  # nobody listens
