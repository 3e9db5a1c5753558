"""Scenarios against milters: a libmilter program, and one that answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from milterd.lab import status
from milterd.lab.scenario.talk import Manner
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol, Stage
from milterd.wire.milter import MilterConnection
from tests.lab.scenario.play import play, told
from tests.wire.programs import pymilter, served

BEGIN = "connect mx.example.org 192.0.2.1\nhelo mx\nmail <a@example.net>\nrcpt <b@example.net>\n"
"""Four lines, after which the content may come."""


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


def asking(*asked: str, expect: str = "") -> str:
    fields = "".join(f"X-Ask: {each}\n" for each in asked)
    return f"{BEGIN}message <<END\nSubject: hello\n{fields}\nbody\nEND\n{expect}"


EVERY = """\
expect edit add-header X-Added: one\\n\\ttwo
expect edit insert-header 0 X-Inserted: /^top$/
expect edit change-header 1 Subject: changed
expect edit delete-header 1 Subject
expect edit replace-body "new body\\r\\n"
expect edit add-rcpt <new@example.net> NOTIFY=NEVER
expect edit del-rcpt b@example.net
expect edit change-from <> RET=HDRS
expect edit quarantine odd
expect no other edit
expect progress
expect no violation
expect continue
"""
ASKED = ("progress", "add", "insert", "change", "delete", "body", "rcpt+", "rcpt-", "from")


def test_every_edit_is_seen(peer: str) -> None:
    outcome = play(asking(*ASKED, "quarantine", expect=EVERY), peer)
    assert (told(outcome), outcome.status) == ([], status.GOOD)


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ("edit add-header X-Added: one", r"add-header X-Added: one\r\n\ttwo"),
        ("edit add-header X-Other", "found add-header X-Added"),
        ("edit add-header X-Added:one\\n\\ttwo", "found add-header X-Added: one"),
        ("edit insert-header 1 X-Inserted", "found add-header"),
        ("edit change-header Subject: Changed", "change-header 1 Subject: changed"),
        ("edit replace-body /^body/", 'replace-body "new body'),
        ("edit add-rcpt <new@example.net> NOTIFY=SUCCESS", "NOTIFY=NEVER"),
        ("edit quarantine strange", "quarantine odd"),
        ("no edit", "add-header X-Added"),
        ("no edit del-rcpt", "found del-rcpt <b@example.net>"),
        ("no edit add-header X: y\nexpect no edit add-header x-added", "add-header X-Added"),
        ("edit add-header\nexpect no other edit", "found insert-header 0"),
        ("edit add-header\nexpect edit add-header", "expected edit add-header, found"),
        ("nothing", "expected nothing, found add-header"),
        ("reject", "expected reject, found continue"),
        ("accept|discard", "expected accept|discard, found continue"),
        ("reply 5xx", "expected reply 5xx, found continue"),
        ("no answer", "expected no answer, found continue"),
        ("close", "expected close, found continue"),
        ("broken", "expected broken, found continue"),
        ("violation", "expected violation, found none"),
        ("version 5", "expected version 5, found version 6"),
        ("actions -ADDHDRS", "found actions ADDHDRS CHGBODY"),
    ],
)
def test_every_wish_can_fail(peer: str, wish: str, found: str) -> None:
    outcome = play(asking(*ASKED, "quarantine", expect=f"expect {wish}\nsleep 9m"), peer)
    assert outcome.status == status.BAD
    ((line, text),) = told(outcome)
    assert line == 10 + len(ASKED) + wish.count("\n") + 1
    assert text.startswith('message "Subject: hello')
    assert found in text


def test_progress_that_does_not_come(peer: str) -> None:
    outcome = play(asking("add", expect="expect progress\n"), peer)
    assert "expected progress, found none" in told(outcome)[0][1]


def test_an_answer_that_nobody_expects_fails_at_its_event(peer: str) -> None:
    outcome = play("connect x\nhelo x\nmail <>\nrcpt <refuse@x>\nrcpt <b@x>\nexpect reject\n", peer)
    assert outcome.status == status.BAD
    expected = "expected continue, since nothing else is expected below, found reject"
    assert told(outcome) == [(4, f"rcpt <refuse@x>: {expected}")]
    last = play("connect x\nhelo x\nmail <>\nrcpt <refuse@x>", peer)
    assert told(last)[0][0] == 4


def test_all_that_fails_in_a_block_is_said(peer: str) -> None:
    expect = "expect edit add-header X: y\nexpect continue\nexpect edit del-rcpt\nabort\nmail <x>\n"
    outcome = play(asking("add", expect=expect), peer)
    assert [line for line, _ in told(outcome)] == [11, 13]
    assert [each.line for each in outcome.exchanges] == [1, 2, 3, 4, 5]


def test_replies(peer: str) -> None:
    good = "expect reply 554 5.7.1 no % thanks really\nexpect no edit add-header"
    assert play(asking("reply", expect=good), peer).passed
    for each in ("5xx", "55x /THANKS/i", "554 5.7.1", r"554 \x6eo % thanks really"):
        assert play(asking("reply", expect=f"expect reply {each}"), peer).passed
    for each in ("553", "554 5.7.0", "554 /THANKS/", "554 no", "4xx"):
        outcome = play(asking("reply", expect=f"expect reply {each}"), peer)
        assert r"found reply 554-5.7.1 no %% thanks\r\n554 5.7.1 really" in told(outcome)[0][1]


def test_several_messages_on_a_connection(peer: str) -> None:
    text = asking("reject", expect="expect reject\nabort\n")
    again = "mail <>\nrcpt <b@x>\nmessage <<END\nX-Ask: discard\n\nEND\nexpect discard\n"
    more = "abort\nmail <>\nabort\nquit\nexpect close\n"
    more += "connect a\nquit\nconnect y\nhelo y\ndrop\nconnect z\n"
    assert told(play(text + again + more, peer)) == []


def test_octets_piece_by_piece(peer: str) -> None:
    outcome = play(
        "fragment 1\nstall 0.05\n" + asking("add", expect="expect edit add-header"), peer
    )
    assert told(outcome) == []


def test_a_file_beside_the_scenario(peer: str, tmp_path: Path) -> None:
    (tmp_path / "my mail.eml").write_bytes(b"X-Ask: add\nX-Ask: reject\n\nbody\n")
    text = f'{BEGIN}message "@my mail.eml"\nexpect reject\n'.replace('"@my mail', "@my\\x20mail")
    text = text.replace('.eml"', ".eml")
    assert told(play(text, peer, at=tmp_path)) == []
    missing = play(f"{BEGIN}body @none", peer, at=tmp_path)
    assert (missing.status, missing.failures[0].line) == (status.USAGE, 5)
    assert "No such file" in missing.failures[0].text


def test_rules_of_its_own(peer: str) -> None:
    text = """
        packet O 00000006 000001ff 001fffff
          expect packet O /^\\0\\0\\0\\x06/
        drop
        packet O 00000006 000001ff 001fffff
          expect version 6
        connect x
        # two packets at once
        raw 00000003 48 "x" 00 00000007 4d "<a@x>" 00
          expect continue
          expect continue
          expect silence 0.1
        raw 000000ff 4d "half a packet"
          expect silence 0.1
        drop
        packet Z "unknown"
          expect close
        connect y
        half-close
          expect close
    """
    outcome = play(text, peer)
    assert told(outcome) == []


def test_what_may_not_be_said_is_the_scenarios_fault(peer: str) -> None:
    outcome = play("mail <x>", peer)
    assert outcome.status == status.USAGE
    assert told(outcome) == [(1, "mail <x>: MailFrom may not come negotiated, no client")]
    assert play("connect x\nexpect packet c", peer).status == status.USAGE
    assert play("connect a\\0b", peer).status == status.USAGE
    assert play("connect x", "nonsense").status == status.USAGE
    assert play("connect x\ndrop\nexpect continue", peer).status == status.USAGE


# --- a milter that answers as it is told ---------------------------------------------------


def _continue(event: m.CommandMessage) -> Sequence[m.Reply]:
    return [m.Continue()]


def test_what_was_agreed() -> None:
    def make() -> MilterConnection:
        return MilterConnection(
            accept_actions=Actions.ADDHDRS | Actions.SETSYMLIST,
            accept_protocol=Protocol.NR_HDR | Protocol.NOHELO,
            macros={Stage.MAIL: ("i", "{auth_authen}")},
        )

    text = f"""
        expect version 6
        expect actions ADDHDRS SETSYMLIST
        expect actions +ADDHDRS -CHGBODY
        expect protocol 0x82
        expect protocol +NR_HDR -NR_BODY
        expect macros mail i {{auth_authen}}
        expect macros rcpt default
        {BEGIN}header A: b
          expect no answer
        offer version 4 actions CHGBODY protocol none
          expect version 4
          expect actions none
    """
    with served(make, _continue) as milter:
        assert told(play(text, milter.address)) == []
        assert m.Helo(b"mx") not in milter.heard
        outcome = play("expect protocol -NR_HDR\nconnect x\n", milter.address)
    assert told(outcome)[0] == (
        1,
        "offer version 6: expected protocol -0x80, found protocol NOHELO NR_HDR",
    )
    offers = [each for each in milter.heard if isinstance(each, m.Negotiate)]
    assert offers[1] == m.Negotiate(4, Actions.CHGBODY, Protocol.NONE)


def test_the_milter_hears_what_is_written() -> None:
    text = """
        macro connect j=mx.example.org {daemon_name}=smtpd
        macro mail
        connect "[2001:db8::1]" 2001:db8::1 25
        helo \\xff
        mail <a@example.net> SIZE=10 BODY=8BITMIME
        macro mail off
        rcpt <b@example.net>
        unknown FOO  bar
        data
        header Subject:  gr\\xfc\\n\\t\\xdfe
        header X-Tight:x
        eoh
        body "x" * 65536
        end "tail\\0"
        abort
        mail <>
        quit-nc
        connect unix unix:/run/x
    """
    with served(lambda: MilterConnection(accept_protocol=Protocol.NONE), _continue) as milter:
        assert told(play(text, milter.address)) == []
    told_to = [each for each in milter.heard[1:] if not isinstance(each, m.Abort)]
    macros = m.Macros(Command.CONNECT, ((b"j", b"mx.example.org"), (b"{daemon_name}", b"smtpd")))
    assert told_to[0] == macros
    assert told_to[1].encode()[4:] == b"C[2001:db8::1]\x006\x00\x192001:db8::1\x00"
    assert told_to[2:] == [
        m.Helo(b"\xff"),
        m.Macros(Command.MAIL),
        m.MailFrom(b"<a@example.net>", (b"SIZE=10", b"BODY=8BITMIME")),
        m.RcptTo(b"<b@example.net>"),
        m.Unknown(b"FOO  bar"),
        m.Data(),
        m.Header(b"Subject", b" gr\xfc\n\t\xdfe"),
        m.Header(b"X-Tight", b"x"),
        m.EndOfHeaders(),
        m.BodyChunk(b"x" * 65535),
        m.BodyChunk(b"x"),
        m.EndOfMessage(b"tail\0"),
        m.MailFrom(b"<>"),
        m.QuitNewConnection(),
        macros,
        m.Connect(b"unix", told_to[-2].family, 0, b"/run/x"),  # type: ignore[union-attr]
        m.Quit(),
    ]


def test_pieces_of_a_body_end_with_an_answer() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [m.Skip() if isinstance(event, m.BodyChunk) else m.Continue()]

    content = f'{BEGIN}body "x" * 200000\nexpect skip\nend\nabort\nmail <>\nrcpt <b>\n'
    message = "message <<END\nX: y\n\nbody\nEND\n"
    with served(lambda: MilterConnection(accept_protocol=Protocol.SKIP), answer) as milter:
        assert told(play(content + message, milter.address)) == []
        outcome = play(f'{BEGIN}body "x"', milter.address)
    assert len([each for each in milter.heard if isinstance(each, m.BodyChunk)]) == 3
    assert "found skip" in told(outcome)[0][1]


# --- milters at fault ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "line"), [("", 3), ("expect reject\n", 4), ("expect edit del-rcpt\n", 4)]
)
def test_death_is_a_fault_at_its_line(expect: str, line: int) -> None:
    with served(MilterConnection, lambda _: []) as milter:
        outcome = play(f"connect x\nexpect close\nconnect x\n{expect}", milter.address)
    assert outcome.status == status.GONE
    ((found, text),) = told(outcome)
    assert found == line
    assert text.startswith("connect x: ")
    assert "connection lost at connect, octet 17 of the milter's" in text


def test_silence_is_a_fault_unless_it_is_expected() -> None:
    import threading

    silent = threading.Event()

    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        if isinstance(event, m.MailFrom):
            silent.wait(0.5)
        return [m.Continue()]

    begin = "connect x\nhelo x\nmail <>\n"
    with served(MilterConnection, answer) as milter:
        assert told(play(f"{begin}expect silence 0.1\nexpect continue\n", milter.address)) == []
        outcome = play(f"within 0.1\n{begin}", milter.address)
        assert outcome.status == status.SILENT
        assert (
            "silent at mail, octet 27 of the milter's: no answer within 0.1 s"
            in told(outcome)[0][1]
        )
        outcome = play(f"{begin}sleep 9", milter.address, total=0.8)
        assert (outcome.status, told(outcome)[0][1]) == (
            status.SILENT,
            "mail <>: not over after 0.8 s",
        )
        silent.set()
        outcome = play(f"{begin}expect silence 0.3", milter.address)
        assert told(outcome) == [(4, "mail <>: expected silence 0.3, found octets")]


def test_no_milter(tmp_path: Path) -> None:
    outcome = play("connect x\nexpect close", f"unix:{tmp_path}/none")
    assert outcome.status == status.GONE
    assert "no connection to" in told(outcome)[0][1]


def test_a_search_has_an_end() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        edits = [m.ReplaceBodyChunk(b"a" * 40 + b"c")]
        return [*(edits if isinstance(event, m.EndOfMessage) else []), m.Continue()]

    text = f"{BEGIN}end\nexpect edit replace-body /(a|aa)+(b|bb)+(a|aa)+$/\n"
    with served(lambda: MilterConnection(accept_actions=Actions.ALL), answer) as milter:
        outcome = play(text, milter.address)
    assert outcome.status == status.BAD
    assert "found a search for it of over 1 s" in told(outcome)[0][1]


class Written:
    """In the place of a link: what was written, and when."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, float]] = []

    async def write(self, octets: bytes) -> None:
        self.pieces.append((octets, asyncio.get_running_loop().time()))


def test_how_octets_are_written() -> None:
    async def writing() -> tuple[list[tuple[bytes, float]], float]:
        link, manner = Written(), Manner()
        manner.fragment, manner.stall = 2, 0.05
        await manner.write(link, b"abcdef")  # type: ignore[arg-type]
        await manner.write(link, b"gh")  # type: ignore[arg-type]
        return link.pieces, manner.stall

    pieces, stall = asyncio.run(writing())
    assert [each for each, _ in pieces] == [b"ab", b"c", b"de", b"f", b"gh"]
    assert pieces[2][1] - pieces[1][1] >= 0.05
    assert stall == 0
