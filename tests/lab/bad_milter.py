"""A milter that behaves until one event, and does there what it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.milter import MilterConnection
from tests.peers.process import directory

Deed = Callable[[socket.socket], None]
"""What to do on the connection, which is closed then."""


class BadMilter:
    """Its address, and how many octets it had sent in good faith before it went astray."""

    def __init__(self, path: str, at: type, deed: Deed, actions: Actions, flags: Protocol) -> None:
        self.path, self.good = path, 0
        self._at, self._deed = at, deed
        self._actions, self._flags = actions, flags

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    def serve(self, listener: socket.socket) -> None:
        """Each connection in its turn, until the listener is shut."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.settimeout(20)
                self._one(connection)

    def _one(self, connection: socket.socket) -> None:
        milter = MilterConnection(accept_actions=self._actions, accept_protocol=self._flags)
        self.good = 0
        while data := connection.recv(65536):
            events = milter.receive(data)
            while events:
                for event in events:
                    if isinstance(event, self._at):
                        self._deed(connection)
                        return
                    if isinstance(event, m.Negotiate):
                        self._say(connection, milter.negotiate())
                    elif milter.reply_due and not isinstance(event, m.Macros):
                        self._say(connection, milter.reply(m.Continue()))
                events = milter.receive()

    def _say(self, connection: socket.socket, octets: bytes) -> None:
        connection.sendall(octets)
        self.good += len(octets)


@contextmanager
def bad_milter(
    at: type, deed: Deed, actions: Actions = Actions.ALL, flags: Protocol = Protocol.NONE
) -> Iterator[BadMilter]:
    """The milter on a socket, in a thread."""
    with directory("bad") as home, socket.socket(socket.AF_UNIX) as listener:
        milter = BadMilter(str(home / "s"), at, deed, actions, flags)
        listener.bind(milter.path)
        listener.listen()
        thread = threading.Thread(target=milter.serve, args=(listener,))
        thread.start()
        try:
            yield milter
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)
            assert not thread.is_alive()


def saying(*octets: bytes) -> Deed:
    """Say this, and wait until the other side hangs up."""

    def deed(connection: socket.socket) -> None:
        for each in octets:
            connection.sendall(each)
        while connection.recv(65536):
            pass

    return deed


def dribbling(octets: bytes, pause: float) -> Deed:
    """Say this an octet at a time, over and over, until the other side hangs up."""

    def deed(connection: socket.socket) -> None:
        waiting = threading.Event()
        while True:
            for each in octets:
                connection.sendall(bytes((each,)))
                waiting.wait(pause)

    return deed


def closing(connection: socket.socket) -> None:
    """Say nothing and close."""


def closing_after(octets: bytes) -> Deed:
    """Say this and close."""
    return lambda connection: connection.sendall(octets)
