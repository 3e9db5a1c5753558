"""An MTA's side of a milter socket, blocking, on `milterd.wire`: what the tests drive."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from milterd.core.actions import Edit
from milterd.core.mail import Family
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Actions, Protocol
from milterd.wire.convert import EditCollector
from milterd.wire.mta import MtaConnection

PATIENCE = 30.0
"""Seconds for any answer; a test that waits longer has failed."""

ANSWERED = Protocol.ALL & ~Protocol.NR_MAIL
"""An offer under which MAIL is answered: so a test knows that a message has begun."""

Macros = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    """What came back for a message: the edits, and the reply that ends it."""

    edits: tuple[Edit, ...]
    reply: Any


class Mta:
    """One connection to a milter."""

    def __init__(
        self,
        address: Any,
        *,
        version: int = 6,
        actions: Actions = Actions.ALL,
        protocol: Protocol = Protocol.ALL,
    ) -> None:
        if isinstance(address, socket.socket):  # one that is connected
            self.socket = address
            self.socket.settimeout(PATIENCE)
        else:
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            self.socket = socket.socket(family, socket.SOCK_STREAM)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(address)
        self.wire = MtaConnection(version=version, actions=actions, protocol=protocol)
        self.socket.sendall(self.wire.negotiate())
        (self.negotiated,) = self._replies()
        assert isinstance(self.negotiated, Negotiated)

    def __enter__(self) -> Mta:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def say(self, command: Any, macros: Macros = ()) -> Any:
        """Send an event; the answer where one is due."""
        octets = self.wire.send(command, macros)
        if octets:
            self.socket.sendall(octets)
        return self._replies()[-1] if self.wire.awaiting else None

    def greet(
        self,
        host: bytes = b"client.example",
        family: Family = Family.INET,
        port: int = 2525,
        address: bytes = b"192.0.2.1",
        helo: bytes = b"helo.example",
        macros: Macros = ((b"j", b"mx.example"), (b"{daemon_name}", b"smtpd")),
    ) -> Mta:
        """CONNECT and HELO."""
        self.say(m.Connect(host, family, port, address), macros)
        self.say(m.Helo(helo))
        return self

    def begin(
        self,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: Iterable[bytes] = (b"text\r\n",),
        sender: bytes = b"<s@example.net>",
        recipients: Iterable[bytes] = (b"<r@example.org>",),
        macros: Macros = (),
    ) -> None:
        """A message up to, not including, its end."""
        self.say(m.MailFrom(sender), macros)
        for each in recipients:
            self.say(m.RcptTo(each))
        self.say(m.Data())
        for name, value in headers:
            self.say(m.Header(name, value))
        self.say(m.EndOfHeaders())
        for piece in body:
            self.say(m.BodyChunk(piece))

    def end(self, queue_id: bytes = b"4XYZ") -> Answer:
        """The end of the message, with all that comes back."""
        self.socket.sendall(self.wire.send(m.EndOfMessage(), ((b"i", queue_id),)))
        *edits, last = self._replies()
        collector = EditCollector(self.wire.leading_space)
        for each in edits:
            collector.take(each)
        return Answer(collector.edits(), last)

    def message(self, headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> Answer:
        """A whole message, and the abort that Postfix sends after each."""
        self.begin(headers, **more)
        answer = self.end()
        self.say(m.Abort())
        return answer

    def _replies(self) -> list[Any]:
        found: list[Any] = []
        while self.wire.awaiting or not found:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the milter closed")
            found += self.wire.receive(data)
        return found
