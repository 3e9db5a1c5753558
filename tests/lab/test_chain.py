"""`milterlab chain` asks milters as Postfix does, and ends where Postfix ends."""

from __future__ import annotations

import asyncio
import json
import os
import smtplib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.core.decision import Verdict
from milterd.core.mail import Client, Envelope, Family, Mail, Recipient, Session, parse_message
from milterd.lab.chain import Chained, play_chain
from milterd.lab.cli import app
from milterd.lab.link import MilterError, Patience
from milterd.wire import messages as m
from milterd.wire.constants import Actions
from milterd.wire.milter import MilterConnection
from tests.peers.postfix import Postfix, postfix
from tests.wire.programs import Served, served

MESSAGE = (
    b"From: s@example.org\r\nSubject: hello\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Message-ID: <one@example.org>\r\n\r\nbody\r\n"
)
RECIPIENTS = ("a@example.net", "b@example.net", "c@example.net")
MAIL = Mail(
    Session(Client(b"client.example.org", Family.INET, b"192.0.2.1", 4321), b"client.example.org"),
    Envelope(b"s@example.org", (), tuple(Recipient(each.encode()) for each in RECIPIENTS)),
    parse_message(MESSAGE).headers,
    parse_message(MESSAGE).body,
)
EDITS: tuple[m.Reply, ...] = (
    m.AddHeaderReply(b"X-One", b"1"),
    m.ChangeHeaderReply(1, b"Subject", b"changed"),
    m.ReplaceBodyChunk(b"new body\r\n"),
    m.ChangeFromReply(b"<new@example.org>", b""),
    m.AddRcptReply(b"<added@example.net>"),
    m.DelRcptReply(b"<b@example.net>"),
)
SECOND: tuple[m.Reply, ...] = (
    m.InsertHeaderReply(1, b"X-Two", b"2"),
    m.ChangeHeaderReply(1, b"X-One", b""),
    m.DelRcptReply(b"<added@example.net>"),
)
When = Callable[[m.CommandMessage], bool]
Rule = tuple[When, m.Reply]


def at(kind: type[m.CommandMessage], address: bytes = b"") -> When:
    """Whether an event is of that kind, and of that address if one is named."""
    return lambda event: isinstance(event, kind) and address in getattr(event, "address", b"")


CASES: Mapping[str, tuple[Sequence[Rule], Sequence[Rule]]] = {
    "both edit": ((), ()),
    "the first refuses a recipient": (((at(m.RcptTo, b"b@"), m.Reject()),), ()),
    "the second refuses a recipient": ((), ((at(m.RcptTo, b"b@"), m.TempFail()),)),
    "all recipients are refused": (
        ((at(m.RcptTo, b"a@"), m.Reject()),),
        ((at(m.RcptTo), m.Reject()),),
    ),
    "the first accepts the connection": (((at(m.Connect), m.Accept()),), ()),
    "the first accepts the sender": (((at(m.MailFrom), m.Accept()),), ()),
    "the first accepts a recipient": (((at(m.RcptTo, b"a@"), m.Accept()),), ()),
    "the second accepts at DATA": ((), ((at(m.Data), m.Accept()),)),
    "the first accepts in the header": (((at(m.Header), m.Accept()),), ()),
    "the first refuses the sender": (((at(m.MailFrom), m.ReplyCode(b"550 5.7.1 no")),), ()),
    "the second refuses the sender": ((), ((at(m.MailFrom), m.TempFail()),)),
    "the first refuses at DATA": (((at(m.Data), m.TempFail()),), ()),
    "the first refuses in the header": (((at(m.Header), m.Reject()),), ()),
    "the first refuses at the end": (((at(m.EndOfMessage), m.Reject()),), ()),
    "the second refuses at the end": ((), ((at(m.EndOfMessage), m.ReplyCode(b"451 4.7.1 x")),)),
    "the first discards at RCPT": (((at(m.RcptTo), m.Discard()),), ()),
    "the first discards at the end": (((at(m.EndOfMessage), m.Discard()),), ()),
}


def milter(rules: Sequence[Rule], edits: Sequence[m.Reply]) -> Callable[..., Sequence[m.Reply]]:
    """What a scripted milter answers: by a rule, or edits at the end."""

    def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
        for when, reply in rules:
            if when(event):
                return [reply]
        return [*edits, m.Continue()] if isinstance(event, m.EndOfMessage) else [m.Continue()]

    return answer


@contextmanager
def pair(case: str, order: list[tuple[int, object]]) -> Iterator[tuple[Served, Served]]:
    """Two scripted milters that note in `order` what they are told."""
    first, second = CASES[case]

    def noted(number: int, answer: Callable[..., Sequence[m.Reply]]) -> Callable[..., object]:
        def noting(event: m.CommandMessage) -> Sequence[m.Reply]:
            order.append((number, _told(event)))
            return answer(event)

        return noting

    def make() -> MilterConnection:
        return MilterConnection(accept_actions=Actions.ALL)

    one, two = noted(1, milter(first, EDITS)), noted(2, milter(second, SECOND))
    with served(make, one) as before, served(make, two) as after:  # type: ignore[arg-type]
        yield before, after


def _told(event: m.CommandMessage) -> object:
    """An event without what differs by place: the client, and ESMTP's parameters."""
    match event:
        case m.Connect():
            return "connect"
        case m.MailFrom() | m.RcptTo():
            return type(event).__name__, event.address
        case m.Header():
            return event.name, event.value.strip()
        case _:
            return event


def ours(case: str) -> tuple[list[tuple[int, object]], Chained]:
    order: list[tuple[int, object]] = []
    with pair(case, order) as (first, second):
        found = asyncio.run(play_chain([first.address, second.address], MAIL))
    return order, found


@pytest.fixture(scope="module")
def mta() -> Iterator[Postfix]:
    with postfix({"smtpd_milters": "unix:a.sock unix:b.sock"}) as peer:
        yield peer


def theirs(mta: Postfix, case: str) -> tuple[list[tuple[int, object]], list[int]]:
    """What Postfix tells the same two, and its replies to MAIL, each RCPT and DATA."""
    order: list[tuple[int, object]] = []
    with pair(case, order) as milters:
        for name, each in zip(("a.sock", "b.sock"), milters, strict=True):
            each.path.chmod(0o666)
            (mta.queue / name).unlink(missing_ok=True)
            os.link(each.path, mta.queue / name)
        with smtplib.SMTP("127.0.0.1", mta.port, timeout=20) as client:
            client.ehlo("client.example.org")
            codes = [client.mail("s@example.org")[0]]
            if codes[0] == 250:
                codes += [client.rcpt(each)[0] for each in RECIPIENTS]
            if 250 in codes[1:]:
                codes.append(_data(client))
    return order, codes


def _data(client: smtplib.SMTP) -> int:
    try:
        return client.data(MESSAGE)[0]
    except smtplib.SMTPDataError as error:
        return error.smtp_code


@pytest.mark.parametrize("case", CASES)
def test_milters_are_told_what_postfix_tells_them(mta: Postfix, case: str) -> None:
    order, found = ours(case)
    expected, codes = theirs(mta, case)
    assert order == expected
    refused = codes[-1] >= 400
    assert (found.verdict in (Verdict.REJECT, Verdict.TEMPFAIL)) is refused
    if refused:
        assert (found.verdict is Verdict.REJECT) is (codes[-1] >= 500)
    elif len(codes) == 5:
        assert len(found.refused) == sum(code >= 400 for code in codes[1:4])


def test_edits_of_both_are_in_the_mail() -> None:
    order, found = ours("both edit")
    assert (2, (b"Subject", b"changed")) in order
    assert (2, m.BodyChunk(b"new body\r\n")) in order
    # An insertion at 1 comes below the MTA's own Received field, on top of what came.
    names = [each.name for each in found.mail.visible()]
    assert names == [b"X-Two", b"From", b"Subject", b"Date", b"Message-ID"]
    assert found.mail.envelope.sender == b"new@example.org"
    left = [each.address for each in found.mail.envelope.recipients]
    assert left == [b"a@example.net", b"c@example.net"]
    first, second = found.parts
    assert tuple(first.played.before.visible()) == MAIL.headers
    assert first.played.after == second.played.before
    assert second.played.after == found.mail
    assert second.played.before.values(b"X-One") == [b" 1"]


def test_who_ended_it() -> None:
    _, found = ours("the second refuses at the end")
    assert found.ended_by == 1
    assert found.verdict is Verdict.TEMPFAIL
    assert found.parts[0].played.edits
    assert found.parts[1].played.edits == ()
    _, found = ours("the first refuses at the end")
    assert found.ended_by == 0
    assert not found.parts[1].shown


def test_a_fault_names_the_milter() -> None:
    def silent(event: m.CommandMessage) -> Sequence[m.Reply]:
        return [] if isinstance(event, m.EndOfMessage) else [m.Continue()]

    with served(MilterConnection, milter((), ())) as good, served(MilterConnection, silent) as bad:
        with pytest.raises(MilterError, match=f"{bad.address}: .* at end of message"):
            asyncio.run(play_chain([good.address, bad.address], MAIL, patience=Patience(5)))
        with pytest.raises(MilterError, match="no connection to unix:/nowhere"):
            asyncio.run(play_chain([good.address, "unix:/nowhere"], MAIL))


run = CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE)
    return str(path)


def test_the_command(file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.eml"
    with pair("both edit", []) as (first, second):
        sockets = [first.address, second.address]
        result = run.invoke(app, ["chain", *sockets, file, "--out", str(out)])
        values = json.loads(run.invoke(app, ["chain", *sockets, file, "--json"]).stdout)
    assert result.exit_code == 0, result.output
    mail = parse_message(out.read_bytes())
    assert mail.headers[0].named(b"Received")
    names = [each.name for each in mail.headers[1:]]
    assert names == [b"X-Two", b"From", b"Subject", b"Date", b"Message-ID"]
    assert out.read_bytes().endswith(b"\r\n\r\nnew body\r\n")
    text = result.stdout
    assert text.index("+X-One: 1") < text.index("-X-One: 1")
    assert text.splitlines()[-1] == f"{file}: continue"
    assert values["verdict"] == "continue"
    assert [each["milter"] for each in values["milters"]] == sockets
    assert [len(each["edits"]) for each in values["milters"]] == [6, 3]


def test_another_mta_has_other_rules(file: str, tmp_path: Path) -> None:
    """Sendmail counts a deleted field still, and takes its place; Postfix has forgotten it."""
    twice = (
        m.AddHeaderReply(b"X-New", b"value"),
        m.ChangeHeaderReply(1, b"Subject", b""),
        m.ChangeHeaderReply(1, b"Subject", b"again"),
    )

    def make() -> MilterConnection:
        return MilterConnection(accept_actions=Actions.ALL)

    made = []
    with served(make, milter((), twice)) as one:
        for mta in ("postfix", "sendmail"):
            out = tmp_path / mta
            done = run.invoke(app, ["chain", one.address, file, "--as", mta, "--out", str(out)])
            assert done.exit_code == 0, done.output
            made.append(parse_message(out.read_bytes()))
    as_postfix, as_sendmail = ([each.name for each in mail.headers[1:]] for mail in made)
    assert as_postfix == [b"From", b"Date", b"Message-ID", b"X-New", b"Subject"]
    assert as_sendmail == [b"From", b"Subject", b"Date", b"Message-ID", b"X-New"]


def test_the_command_refused(file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.eml"
    with pair("the first refuses at the end", []) as (first, second):
        arguments = ["chain", first.address, second.address, file]
        result = run.invoke(app, [*arguments, "--out", str(out)])
        values = json.loads(run.invoke(app, [*arguments, "--json"]).stdout)
    assert result.exit_code == 1
    assert not out.exists()
    assert "not shown the message" in result.stdout
    assert f"{file}: reject 550 5.7.1 Command rejected\n  by {first.address}\n" in result.stdout
    assert values["ended_by"] == first.address
    assert values["reply"] == "550 5.7.1 Command rejected"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["{file}"], "give milters first"),
        (["{file}", "unix:/run/m.sock"], "only the last argument is a file"),
        (["unix:/run/m.sock", "{file}.no"], "No such file"),
        (["unix:/run/m.sock", "{file}", "--client", "nobody knows"], "is not IP"),
        (["unix:/run/m.sock", "{file}", "--as", "exim"], "expected postfix or sendmail"),
    ],
)
def test_usage(file: str, arguments: list[str], found: str) -> None:
    result = run.invoke(app, ["chain", *(each.format(file=file) for each in arguments)])
    assert result.exit_code == 2
    assert found in " ".join(result.output.replace("│", " ").split())


def test_fault(file: str, tmp_path: Path) -> None:
    result = run.invoke(app, ["chain", f"unix:{tmp_path}/none", file, "--json"])
    assert result.exit_code == 5
    assert "no connection" in json.loads(result.stdout)["fault"]
