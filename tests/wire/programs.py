"""Milters to run: one on Debian's libmilter, one on our own connection object."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL

from milterd.wire import messages as m
from milterd.wire.milter import MilterConnection
from tests.peers.process import answers, daemon, directory

Answer = Callable[[m.CommandMessage], Sequence[m.Reply]]


@contextmanager
def pymilter() -> Iterator[tuple[Path, Path]]:
    """The socket of pymilter_peer.py, and its log of events."""
    with directory("pymilter") as home:
        path, log = home / "milter.sock", home / "events"
        program = Path(__file__).with_name("pymilter_peer.py")
        command = [sys.executable, str(program), str(path), str(log)]
        # libmilter takes five seconds to end by SIGTERM, and there is nothing to lose.
        with daemon("pymilter", command, home, lambda: answers(path), end=SIGKILL):
            yield path, log


class Served:
    """What a served milter heard, all connections together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[m.CommandMessage] = []

    @property
    def address(self) -> str:
        return f"unix:{self.path}"


@contextmanager
def served(make: Callable[[], MilterConnection], answer: Answer) -> Iterator[Served]:
    """A milter in a thread: `answer` gives the replies to each event that wants some."""
    with directory("served") as home, socket.socket(socket.AF_UNIX) as listener:
        record = Served(home / "milter.sock")
        listener.bind(str(record.path))
        listener.listen()
        thread = threading.Thread(target=_accept, args=(listener, make, answer, record))
        thread.start()
        try:
            yield record
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def _accept(
    listener: socket.socket,
    make: Callable[[], MilterConnection],
    answer: Answer,
    record: Served,
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(10)
            with suppress(BrokenPipeError, ConnectionResetError):  # an MTA may leave at any time
                _serve(connection, make(), answer, record)


def _serve(
    connection: socket.socket, milter: MilterConnection, answer: Answer, record: Served
) -> None:
    while data := connection.recv(65536):
        events = milter.receive(data)
        while events:
            for event in events:
                record.heard.append(event)
                if isinstance(event, m.Negotiate):
                    connection.sendall(milter.negotiate())
                elif milter.reply_due and event is events[-1]:
                    replies = answer(event)
                    if not replies:
                        return
                    connection.sendall(milter.reply(*replies))
            events = milter.receive()
    milter.eof()
