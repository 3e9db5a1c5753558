"""milterlab plays Postfix: what the milter hears, and what is made of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.decision import Verdict
from milterd.core.mail import (
    BytesBody,
    Client,
    Direction,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from milterd.lab.client import MilterError, Played, conversation, play
from milterd.lab.link import Patience
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol, Stage
from milterd.wire.milter import MilterConnection
from milterd.wire.replytext import SmtpReply
from tests.peers.process import directory
from tests.wire.programs import pymilter, served

MAIL = Mail(
    Session(
        Client(b"mx.example.org", Family.INET, b"192.0.2.1", 4321),
        b"mx.example.org",
        Direction.ORIGINATING,
        {"auth_authen": b"joe"},
    ),
    Envelope(
        b"a@example.net", (b"SIZE=10",), (Recipient(b"b@example.net"), Recipient(b"c@example.net"))
    ),
    (
        HeaderField(b"Received", b" from nowhere", hidden=True),
        HeaderField(b"Subject", b" gr\xfc\r\n\t\xdfe"),
        HeaderField(b"X-Tight", b"x"),
    ),
    BytesBody(b"body\r\n" * 20_000),
)


def _asking(*asked: str) -> Mail:
    fields = tuple(HeaderField(b"X-Ask", b" " + each.encode()) for each in asked)
    return MAIL.with_headers((*MAIL.headers, *fields))


def _play(address: str, mail: Mail = MAIL, **options: float) -> Played:
    return asyncio.run(play(address, mail, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


def test_every_edit_of_a_libmilter_program(peer: str) -> None:
    asked = ("add", "insert", "change", "delete", "body", "rcpt+", "rcpt-", "from", "quarantine")
    played = _play(peer, _asking(*asked, "progress"))
    assert played.verdict is Verdict.CONTINUE
    assert [type(each) for each in played.edits] == [
        AddHeader,
        InsertHeader,
        ChangeHeader,
        ChangeHeader,
        ReplaceBody,
        AddRecipient,
        DeleteRecipient,
        ChangeSender,
        Quarantine,
    ]
    assert played.edits[0] == AddHeader(b"X-Added", b" one\r\n\ttwo")
    assert played.edits[4] == ReplaceBody(BytesBody(b"new body\r\n"))
    assert played.violations == ()


@pytest.mark.parametrize(
    ("ask", "verdict", "reply"),
    [
        ("reject", Verdict.REJECT, None),
        ("discard", Verdict.DISCARD, None),
        ("reply", Verdict.REJECT, SmtpReply(554, "5.7.1", ("no % thanks", "really"))),
    ],
)
def test_verdicts_and_no_edits_with_them(
    peer: str, ask: str, verdict: Verdict, reply: SmtpReply | None
) -> None:
    played = _play(peer, _asking("add", ask))
    assert (played.verdict, played.reply, played.edits) == (verdict, reply, ())


def test_refused_recipients(peer: str) -> None:
    refused, taken = Recipient(b"refuse@example.net"), Recipient(b"b@example.net")
    some = Mail(MAIL.session, Envelope(b"", (), (refused, taken)), MAIL.headers)
    played = _play(peer, some)
    assert (played.verdict, played.refused) == (Verdict.CONTINUE, (refused.address,))
    none = Mail(MAIL.session, Envelope(b"", (), (refused,)), MAIL.headers)
    played = _play(peer, none)
    assert (played.verdict, played.refused) == (Verdict.REJECT, (refused.address,))
    assert played.replies[-1].stage == "rcpt"


def _continue(event: m.CommandMessage) -> Sequence[m.Reply]:
    return [m.Continue()]


@pytest.mark.parametrize("leading_space", [True, False])
def test_the_milter_hears_the_mail_as_postfix_tells_it(leading_space: bool) -> None:
    flags = Protocol.HDR_LEADSPC if leading_space else Protocol.NONE
    flags |= Protocol.NR_HDR | Protocol.NR_EOH
    with served(lambda: MilterConnection(accept_protocol=flags), _continue) as milter:
        played = _play(milter.address)
    assert played.verdict is Verdict.CONTINUE
    events = [each for each in milter.heard if not isinstance(each, m.Macros)]
    body = b"body\r\n" * 20_000
    space = b" " if leading_space else b""
    assert events[1:] == [
        m.Connect(b"mx.example.org", Family.INET, 4321, b"192.0.2.1"),
        m.Helo(b"mx.example.org"),
        m.MailFrom(b"<a@example.net>", (b"SIZE=10",)),
        m.RcptTo(b"<b@example.net>"),
        m.RcptTo(b"<c@example.net>"),
        m.Data(),
        m.Header(b"Subject", space + b"gr\xfc\n\t\xdfe"),
        m.Header(b"X-Tight", b"x"),
        m.EndOfHeaders(),
        m.BodyChunk(body[:65535]),
        m.BodyChunk(body[65535:]),
        m.EndOfMessage(),
        m.Abort(),
        m.Abort(),
        m.Quit(),
    ]


def _macros(heard: Sequence[m.CommandMessage], command: Command) -> list[dict[bytes, bytes]]:
    return [dict(e.values) for e in heard if isinstance(e, m.Macros) and e.command is command]


def test_macros_by_default() -> None:
    with served(MilterConnection, _continue) as milter:
        _play(milter.address)
    (connect,) = _macros(milter.heard, Command.CONNECT)
    assert connect[b"{daemon_name}"] == b"ORIGINATING"
    assert connect[b"_"] == b"mx.example.org [192.0.2.1]"
    (mail,) = _macros(milter.heard, Command.MAIL)
    assert mail[b"{auth_authen}"] == b"joe"
    assert b"i" not in mail
    first, second = _macros(milter.heard, Command.RCPT)
    assert b"i" not in first
    assert second[b"i"]
    assert second[b"{rcpt_addr}"] == b"c@example.net"
    for later in (Command.DATA, Command.HEADER, Command.BODY, Command.END_OF_MESSAGE):
        assert all(b"i" in each for each in _macros(milter.heard, later))


def test_macros_come_before_events_that_the_milter_does_not_want() -> None:
    flags = Protocol.NOHELO | Protocol.NORCPT | Protocol.NOHDRS | Protocol.NOBODY
    with served(lambda: MilterConnection(accept_protocol=flags), _continue) as milter:
        _play(milter.address)
    told = [each.command for each in milter.heard if isinstance(each, m.Macros)]
    assert told == [Command(bytes((each,))) for each in b"CHMRRTNE"]
    assert _macros(milter.heard, Command.HELO) == [{}]


def test_a_refused_recipient_opens_no_queue_file() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        refused = isinstance(event, m.RcptTo) and event.address == b"<b@example.net>"
        return [m.Reject() if refused else m.Continue()]

    with served(MilterConnection, answer) as milter:
        played = _play(milter.address)
    assert [b"i" in each for each in _macros(milter.heard, Command.RCPT)] == [False, False]
    assert [b"i" in each for each in _macros(milter.heard, Command.DATA)] == [True]
    assert [each.address for each in played.after.envelope.recipients] == [b"c@example.net"]


def test_macros_the_milter_asked_for() -> None:
    """What Postfix does: a list without a name is none, one without a value an empty packet."""
    lists = {
        Stage.CONNECT: (),
        Stage.HELO: ("{nobody_knows}",),
        Stage.MAIL: ("{client_addr}", "{nobody_knows}"),
        Stage.END_OF_HEADERS: ("{client_addr}",),
        Stage.END_OF_MESSAGE: ("j",),
    }
    with served(lambda: MilterConnection(macros=lists), _continue) as milter:
        _play(milter.address)
    assert _macros(milter.heard, Command.MAIL) == [{b"{client_addr}": b"192.0.2.1"}]
    (connect,) = _macros(milter.heard, Command.CONNECT)
    assert connect[b"j"] == b"localhost"
    assert _macros(milter.heard, Command.HELO) == [{}]
    told = {each.value: _macros(milter.heard, each) for each in Command}
    assert told[b"L"] == [{b"{client_addr}": b"192.0.2.1"}] * 2
    assert told[b"N"] == [{b"{client_addr}": b"192.0.2.1"}]
    assert told[b"B"] == [{b"j": b"localhost"}] * 2
    assert told[b"E"] == [{b"j": b"localhost"}]


@pytest.mark.parametrize(
    ("at", "reply", "verdict"),
    [
        (m.Connect, m.Accept(), Verdict.ACCEPT),
        (m.Connect, m.ReplyCode(b"421 4.7.0 later"), Verdict.TEMPFAIL),
        (m.Helo, m.Reject(), Verdict.REJECT),
        (m.MailFrom, m.TempFail(), Verdict.TEMPFAIL),
        (m.RcptTo, m.Accept(), Verdict.ACCEPT),
        (m.RcptTo, m.Discard(), Verdict.DISCARD),
        (m.Data, m.Shutdown(), Verdict.TEMPFAIL),
        (m.Header, m.Reject(), Verdict.REJECT),
        (m.BodyChunk, m.Skip(), Verdict.CONTINUE),
        (m.EndOfMessage, m.Accept(), Verdict.ACCEPT),
    ],
)
def test_the_first_verdict_ends_it(
    at: type[m.CommandMessage], reply: m.Reply, verdict: Verdict
) -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [reply] if isinstance(event, at) else [m.Continue()]

    with served(lambda: MilterConnection(accept_protocol=Protocol.SKIP), answer) as milter:
        played = _play(milter.address)
    assert played.verdict is verdict
    told = [each for each in milter.heard if not isinstance(each, m.Macros)]
    if at in (m.Connect, m.Helo):
        # Postfix keeps that verdict for the session and closes without a word.
        assert isinstance(told[-1], at)
    elif not isinstance(reply, m.Skip):
        assert isinstance(told[told.index(next(e for e in told if isinstance(e, at))) + 1], m.Abort)
    else:
        assert len([each for each in told if isinstance(each, m.BodyChunk)]) == 1
    if isinstance(reply, m.Shutdown):
        assert played.reply is not None
        assert played.reply.code == 421


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_each_version(version: int) -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        edits = [m.AddHeaderReply(b"X", b"1")] if isinstance(event, m.EndOfMessage) else []
        return [*edits, m.Continue()]

    with served(lambda: MilterConnection(accept_actions=Actions.ADDHDRS), answer) as milter:
        played = _play(milter.address, version=version)
    assert played.edits == (AddHeader(b"X", b" 1"),)
    assert (m.Data() in milter.heard) is (version >= 4)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MilterError, match="no connection"):
        _play(f"unix:{tmp_path}/none")
    with pytest.raises(ValueError, match="expected"):
        _play("nonsense")


async def _against(script: bytes | None, patience: float = 5.0) -> Played:
    """Play to a peer that says `script` at once and closes, or stays silent (None)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if script is None:
            await reader.read()
        else:
            writer.write(script)
        writer.close()

    with directory("play") as home:
        path = home / "s"
        async with await asyncio.start_unix_server(handle, path):
            return await play(f"unix:{path}", MAIL, patience=Patience(patience))


_AGREED = m.Negotiate(6, Actions.NONE, Protocol.NONE).encode()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"", "answer due|connection lost"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame of"),
        (_AGREED, "answer due|connection lost"),
        (_AGREED + m.Continue().encode(), "nobody asked for"),
        (m.Negotiate(7, Actions.NONE, Protocol.NONE).encode(), "version 7"),
    ],
)
def test_a_milter_at_fault(script: bytes, message: str) -> None:
    with pytest.raises(MilterError, match=message):
        asyncio.run(_against(script))


def test_a_silent_milter() -> None:
    with pytest.raises(MilterError, match=r"silent at negotiate.*no answer within 0\.2 s"):
        asyncio.run(_against(None, patience=0.2))


def test_a_milter_that_dies_in_the_middle_changes_nothing() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [] if isinstance(event, m.EndOfMessage) else [m.Continue()]

    with (
        served(MilterConnection, answer) as milter,
        pytest.raises(MilterError, match=r"answer due|connection lost"),
    ):
        _play(milter.address)


def test_progress_without_end_is_not_all_kept() -> None:
    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        more = [m.Progress()] * 5000 if isinstance(event, m.EndOfMessage) else []
        return [*more, m.Continue()]

    with served(MilterConnection, answer) as milter:
        played = _play(milter.address)
    assert len([each for each in played.replies if isinstance(each.reply, m.Progress)]) == 1000


def test_several_mails_in_one_conversation() -> None:
    async def both(address: str) -> list[Played]:
        async with conversation(address, MAIL.session) as talk:
            return [await talk.offer(each) for each in (MAIL, MAIL)]

    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        edits = [m.AddHeaderReply(b"X", b"1")] if isinstance(event, m.EndOfMessage) else []
        return [*edits, m.Continue()]

    with served(lambda: MilterConnection(accept_actions=Actions.ADDHDRS), answer) as milter:
        played = asyncio.run(both(milter.address))
    assert [each.edits for each in played] == [(AddHeader(b"X", b" 1"),)] * 2
    told = [type(each) for each in milter.heard if not isinstance(each, m.Macros)]
    assert [told.count(each) for each in (m.Negotiate, m.Connect, m.MailFrom)] == [1, 1, 2]
    assert told[-3:] == [m.Abort, m.Abort, m.Quit]
