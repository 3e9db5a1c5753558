"""Playing Sendmail: what it tells a milter, and what it makes of the edits, one rule at a time.

From its source and documents; no Sendmail runs here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from milterd.core.mail import BytesBody, HeaderField, Mail, Recipient, body_octets
from milterd.lab.client import Played, play
from milterd.lab.mta_rules import RULES
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol, Stage
from milterd.wire.milter import MilterConnection
from tests.lab.test_play import MAIL
from tests.wire.programs import Served, served

SENDMAIL = RULES["sendmail"]
OTHERS = [
    HeaderField(b"Received", b" from a"),
    HeaderField(b"X-A", b" 1"),
    HeaderField(b"Subject", b" s"),
    HeaderField(b"X-A", b" 2"),
    HeaderField(b"X-A", b" 3"),
]
PLAIN = replace(MAIL, headers=tuple(OTHERS), body=BytesBody(b"text\r\n"))
Add, Insert, Change = m.AddHeaderReply, m.InsertHeaderReply, m.ChangeHeaderReply


def _through(
    edits: Sequence[m.Reply],
    mail: Mail = PLAIN,
    flags: Protocol = Protocol.NONE,
    make: Callable[[], MilterConnection] | None = None,
    mta: str = "sendmail",
) -> tuple[Played, Served]:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [*edits, m.Continue()] if isinstance(event, m.EndOfMessage) else [m.Continue()]

    def connection() -> MilterConnection:
        return MilterConnection(accept_actions=Actions.ALL, accept_protocol=flags)

    with served(make or connection, answer) as milter:
        played = asyncio.run(play(milter.address, mail, rules=RULES[mta]))
    return played, milter


def _header(edits: Sequence[m.Reply], mta: str = "sendmail") -> list[bytes]:
    """The fields behind the MTA's own one, or with what is above it."""
    played, _ = _through(edits, mta=mta)
    own = [each for each in played.after.headers if not each.hidden]
    return [each.raw for each in own]


START = [each.raw for each in OTHERS]


def test_a_deletion_only_marks() -> None:
    twice = [Change(1, b"X-A", b""), Change(2, b"X-A", b"")]
    assert _header(twice) == [START[0], START[2], START[4]]
    assert _header(twice, "postfix") == [START[0], START[2], START[3]]


def test_what_was_deleted_can_be_changed_back() -> None:
    assert _header([Change(1, b"X-A", b""), Change(1, b"x-a", b"new")])[1] == b"x-a: new"


@pytest.mark.parametrize(
    ("edit", "place", "field"),
    [
        (Add(b"X-New", b"v"), 5, b"X-New: v"),
        (Add(b"X-A", b"v"), 1, b"X-A: v"),
        (Change(0, b"X-A", b"v"), 1, b"X-A: v"),
        (Change(1, b"Received", b"v"), 0, b"Received: v"),
        (Change(4, b"X-A", b"v"), 1, b"X-A: v"),
        (Change(1, b"X-New", b"v"), 5, b"X-New: v"),
        (Add(b"Date", b"v"), 0, b"Date: v"),
        (Insert(1, b"X-New", b"v"), 0, b"X-New: v"),
        (Insert(99, b"X-New", b"v"), 5, b"X-New: v"),
        (Add(b"X-New", b"one\ntwo\n\tthree"), 5, b"X-New: one\r\n two\r\n\tthree"),
    ],
)
def test_where_a_field_comes_to(edit: m.EditReply, place: int, field: bytes) -> None:
    assert _header([edit])[place] == field


def test_the_top_is_above_its_own_received_field() -> None:
    played, _ = _through([Insert(0, b"X-Top", b"v"), Insert(2, b"X-Below", b"v")])
    first, own, second = played.after.headers[:3]
    assert [first.name, own.hidden, second.name] == [b"X-Top", True, b"X-Below"]


def test_deleting_what_is_not_there_does_nothing() -> None:
    assert _header([Change(9, b"X-A", b""), Change(1, b"Date", b"")]) == START


def test_a_default_field_is_overwritten_once() -> None:
    found = _header([Add(b"From", b"one"), Add(b"From", b"two")])
    assert found[:2] == [b"From: two", b"From: one"]


def test_the_leading_space_is_the_milters_where_that_was_agreed() -> None:
    played, _ = _through([Add(b"X-New", b"v")], flags=Protocol.HDR_LEADSPC)
    assert played.after.headers[-1].raw == b"X-New:v"


def test_the_place_of_an_insertion_further_down_is_not_certain() -> None:
    played, _ = _through([Insert(2, b"X", b"v")])
    assert "not certain" in played.notes[0]


def test_a_new_body() -> None:
    pieces = [m.ReplaceBodyChunk(each) for each in (b"a\r", b"\nb\n", b"c\rd")]
    played, _ = _through([pieces[0], Add(b"X", b"v"), *pieces[1:]])
    assert body_octets(played.after.body) == b"a\r\nb\r\nc\rd\r\n"


def test_the_envelope() -> None:
    played, _ = _through(
        [
            m.AddRcptReply(b"<b@EXAMPLE.net>"),
            m.AddRcptReply(b"<B@example.net>"),
            m.AddRcptParReply(b"<n@example.net>", b"NOTIFY=NEVER"),
            m.DelRcptReply(b"<c@Example.NET>"),
            m.ChangeFromReply(b"<>", b"RET=HDRS"),
            m.QuarantineReply(b"q" * 200),
        ]
    )
    envelope = played.after.envelope
    assert envelope.recipients == (
        Recipient(b"b@example.net"),
        Recipient(b"B@example.net"),
        Recipient(b"n@example.net", (b"NOTIFY=NEVER",)),
    )
    assert (envelope.sender, envelope.sender_args) == (b"", (b"RET=HDRS",))
    assert played.quarantine == b"q" * 200


def test_what_it_tells() -> None:
    six = replace(PLAIN.session.client, family=type(PLAIN.session.client.family).INET6)
    mail = replace(
        PLAIN, session=replace(PLAIN.session, client=replace(six, address=b"2001:db8::1"))
    )
    _, milter = _through([], mail)
    told = [each.command for each in milter.heard if isinstance(each, m.Macros)]
    assert told == [Command(bytes((each,))) for each in b"CHMRRE"]
    macros = {
        each.command: dict(each.values) for each in milter.heard if isinstance(each, m.Macros)
    }
    assert list(macros[Command.CONNECT]) == [
        b"j",
        b"_",
        b"{daemon_name}",
        b"{if_name}",
        b"{if_addr}",
    ]
    assert macros[Command.HELO] == {}
    assert b"i" in macros[Command.MAIL]
    assert list(macros[Command.RCPT]) == [b"{rcpt_mailer}", b"{rcpt_host}", b"{rcpt_addr}"]
    kinds = [type(each) for each in milter.heard if not isinstance(each, m.Macros)]
    assert kinds[-2:] == [m.EndOfMessage, m.Quit]


def test_an_ipv6_address_is_marked() -> None:
    client = replace(
        PLAIN.session.client, family=type(PLAIN.session.client.family).INET6, address=b"2001:db8::1"
    )
    session = replace(PLAIN.session, client=client)
    for name, address in (("sendmail", b"IPv6:2001:db8::1"), ("postfix", b"2001:db8::1")):
        connect = next(iter(RULES[name].session_events(Mail(session))))
        assert isinstance(connect, m.Connect)
        assert connect.address == address


@pytest.mark.parametrize("with_header_list", [True, False])
def test_the_list_for_the_end_needs_one_for_the_header(with_header_list: bool) -> None:
    lists = {Stage.END_OF_MESSAGE: ("{client_addr}",)}
    if with_header_list:
        lists[Stage.END_OF_HEADERS] = ("j",)
    _, milter = _through([], make=lambda: MilterConnection(macros=lists))
    told = {
        each.command: [name for name, _ in each.values]
        for each in milter.heard
        if isinstance(each, m.Macros)
    }
    assert told[Command.END_OF_MESSAGE] == ([b"{client_addr}"] if with_header_list else [])


def test_a_mail_left_in_the_middle_is_aborted() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [m.Reject() if isinstance(event, m.RcptTo) else m.Continue()]

    with served(MilterConnection, answer) as milter:
        asyncio.run(play(milter.address, PLAIN, rules=SENDMAIL))
    assert milter.heard[-2:] == [m.Abort(), m.Quit()]


def test_the_text_at_connect_does_not_reach_the_client() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [m.ReplyCode(b"550 5.7.1 go away")]

    for name, text in (("sendmail", None), ("postfix", "go away")):
        with served(MilterConnection, answer) as milter:
            played = asyncio.run(play(milter.address, PLAIN, rules=RULES[name]))
        assert (played.reply.text if played.reply else None) == text
