"""Our MTA's side against Debian's libmilter and OpenDKIM, over a blocking socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.mail import BytesBody, Family
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Actions, Protocol
from milterd.wire.convert import EditCollector
from milterd.wire.mta import MtaConnection
from milterd.wire.states import EDIT_ACTIONS
from tests.peers.clamav_milter import Milter
from tests.wire.programs import pymilter


class Client:
    """A blocking MTA: one socket, one connection object."""

    def __init__(self, path: Path, **options: object) -> None:
        self.mta = MtaConnection(**options)  # type: ignore[arg-type]
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._socket.sendall(self.mta.negotiate())
        (self.agreed,) = self._receive()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def say(
        self, command: m.CommandMessage, macros: Sequence[tuple[bytes, bytes]] = ()
    ) -> list[m.Reply]:
        self._socket.sendall(self.mta.send(command, macros))
        return [each for each in self._receive() if not isinstance(each, Negotiated)]

    def _receive(self) -> list[m.Reply | Negotiated]:
        got: list[m.Reply | Negotiated] = []
        while self.mta.awaiting:
            data = self._socket.recv(65536)
            if not data:
                self.mta.eof()
            got += self.mta.receive(data)
        return got

    def start(self) -> None:
        client = m.Connect(b"mx.example.org", Family.INET, 4321, b"192.0.2.1")
        said = [*self.say(client, [(b"j", b"gateway")]), *self.say(m.Helo(b"mx.example.org"))]
        assert set(said) <= {m.Continue()}

    def message(
        self, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"body\r\n"
    ) -> list[m.Reply]:
        """One whole message; what came at its end."""
        macros = [(b"{auth_authen}", b"someone")]
        self.say(m.MailFrom(b"<a@example.net>", (b"SIZE=10",)), macros)
        self.say(m.RcptTo(b"<b@example.net>"))
        self.say(m.Data())
        for each in headers:
            self.say(m.Header(*each))
        self.say(m.EndOfHeaders())
        for at in range(0, len(body), 65535):
            self.say(m.BodyChunk(body[at : at + 65535]))
        return self.say(m.EndOfMessage(), [(b"i", b"QUEUEID")])

    def edits(self, replies: Sequence[m.Reply]) -> tuple[Edit, ...]:
        collector = EditCollector(self.mta.leading_space)
        for each in replies:
            if type(each) in EDIT_ACTIONS:
                collector.take(each)  # type: ignore[arg-type]
        return collector.edits()


@pytest.fixture(scope="module")
def peer() -> Iterator[tuple[Path, Path]]:
    """The socket of a pymilter program, and its log of events."""
    with pymilter() as found:
        yield found


def _events(log: Path) -> list[bytes]:
    return log.read_bytes().splitlines()


def test_negotiation(peer: tuple[Path, Path]) -> None:
    with Client(peer[0]) as client:
        agreed = client.agreed
        assert isinstance(agreed, Negotiated)
        assert agreed.version == 6
        assert agreed.actions & ~Actions.SETSYMLIST == Actions.ALL & ~Actions.SETSYMLIST
        assert client.mta.violations == ()
        assert client.mta.send(m.Quit())


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_each_version(peer: tuple[Path, Path], version: int) -> None:
    with Client(peer[0], version=version, actions=Actions.ALL) as client:
        assert client.mta.agreed_version == version
        client.start()
        assert client.message([(b"X-Ask", b"reject")]) == [m.Reject()]


def test_events_arrive_whole(peer: tuple[Path, Path]) -> None:
    path, log = peer
    before = len(_events(log)) if log.exists() else 0
    with Client(path) as client:
        client.start()
        fields = [(b"Subject", b"gr\xc3\xbc\xff\xdfe"), (b"X-Folded", b"one\n\ttwo")]
        assert client.message(fields) == [m.Continue()]
        client.say(m.Abort())
        client.say(m.Quit())
    seen = b"\n".join(_events(log)[before:])
    assert b"connect mx.example.org 2 ('192.0.2.1', 4321)" in seen
    assert b"mail <a@example.net> SIZE=10 someone" in seen
    assert b"header Subject gr\xc3\xbc\xff\xdfe" in seen
    assert b"header X-Folded one\n\ttwo" in seen
    assert b"eom 6 QUEUEID" in seen


EDITS: list[tuple[bytes, tuple[Edit, ...]]] = [
    (b"add", (AddHeader(b"X-Added", b" one\r\n\ttwo"),)),
    (b"insert", (InsertHeader(0, b"X-Inserted", b" top"),)),
    (b"change", (ChangeHeader(b"Subject", 1, b" changed"),)),
    (b"delete", (ChangeHeader(b"Subject", 1, b""),)),
    (b"body", (ReplaceBody(BytesBody(b"new body\r\n")),)),
    (b"rcpt+", (AddRecipient(b"new@example.net", (b"NOTIFY=NEVER",)),)),
    (b"rcpt-", (DeleteRecipient(b"b@example.net"),)),
    (b"from", (ChangeSender(b"", (b"RET=HDRS",)),)),
    (b"quarantine", (Quarantine(b"odd"),)),
    (b"progress", ()),
]


@pytest.mark.parametrize(("ask", "expected"), EDITS)
def test_each_edit(peer: tuple[Path, Path], ask: bytes, expected: tuple[Edit, ...]) -> None:
    with Client(peer[0]) as client:
        client.start()
        replies = client.message([(b"X-Ask", ask)])
        assert client.edits(replies) == expected
        assert replies[-1] == m.Continue()
        assert client.mta.violations == ()


def test_several_messages_on_one_connection(peer: tuple[Path, Path]) -> None:
    with Client(peer[0]) as client:
        client.start()
        everything = [(b"X-Ask", ask) for ask, _ in EDITS]
        replies = client.message(everything)
        assert client.edits(replies) == tuple(edit for _, edits in EDITS for edit in edits)
        client.say(m.Abort())
        assert client.message([(b"X-Ask", b"discard")]) == [m.Discard()]
        client.say(m.Abort())
        expected = b"554-5.7.1 no %% thanks\r\n554 5.7.1 really"
        assert client.message([(b"X-Ask", b"reply")]) == [m.ReplyCode(expected)]


def test_skip_of_a_long_body(peer: tuple[Path, Path]) -> None:
    path, log = peer
    with Client(path) as client:
        client.start()
        assert Protocol.SKIP in client.mta.agreed_protocol
        assert client.message([], b"x" * 1_000_000) == [m.Continue()]
    assert _events(log)[-1].startswith((b"eom 131070", b"close", b"abort"))
    assert any(each.startswith(b"eom 131070 ") for each in _events(log))


def test_refused_recipient(peer: tuple[Path, Path]) -> None:
    with Client(peer[0]) as client:
        client.start()
        client.say(m.MailFrom(b"<a@example.net>"))
        assert client.say(m.RcptTo(b"<refuse@example.net>")) == [m.Reject()]
        assert client.say(m.RcptTo(b"<b@example.net>")) == [m.Continue()]
        assert client.say(m.Data()) == [m.Continue()]


def test_opendkim_signs(opendkim: Milter) -> None:
    with Client(opendkim.socket) as client:
        client.start()
        fields = [(b"From", b"a@example.net"), (b"To", b"b@example.net"), (b"Subject", b"x")]
        edits = client.edits(client.message(fields))
        signatures = [
            each
            for each in edits
            if isinstance(each, InsertHeader) and each.name == b"DKIM-Signature"
        ]
        assert len(signatures) == 1
        assert b"d=example.net" in signatures[0].value
        assert b"\r\n\t" in signatures[0].value
        assert client.mta.violations == ()
