"""Mails through a real Postfix with a milter that asks for given edits, read back from its
hold queue by its own postcat(1)."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.milter import MilterConnection
from tests.lab.edit_lists import Case
from tests.peers.postfix import Postfix
from tests.peers.process import program

SESSIONS = 6
"""At once."""
_NOTIFY = {b"never": 1, b"success": 2, b"failure": 4, b"delay": 8}
Person = tuple[bytes, bytes, int]
"""Address, ORCPT and NOTIFY of a recipient."""


@dataclass(frozen=True)
class Queued:
    """A mail in the queue, its line ends as CRLF, its queue id, and its envelope."""

    octets: bytes
    queue_id: bytes
    sender: bytes
    ret: bytes
    envid: bytes
    recipients: tuple[Person, ...]


class Asking:
    """A milter: each session's HELO names the case whose edits it asks for, and it holds
    every mail.  `spaces` is whether it negotiates HDR_LEADSPC; `heard` the content it saw."""

    def __init__(self, path: Path, cases: Mapping[bytes, Case]) -> None:
        self.path, self.cases, self.spaces = path, cases, False
        self.heard: dict[bytes, list[m.CommandMessage]] = {}

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        flags = Protocol.HDR_LEADSPC if self.spaces else Protocol.NONE
        milter = MilterConnection(accept_actions=Actions.ALL, accept_protocol=flags)
        name = b""
        # Postfix drops a milter whose edits it cannot carry out.
        with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data := connection.recv(65536):
                events = milter.receive(data)
                while events:
                    for event in events:
                        name = event.name if isinstance(event, m.Helo) else name
                        self._note(name, event)
                        if isinstance(event, m.Negotiate):
                            connection.sendall(milter.negotiate())
                        elif milter.reply_due and not isinstance(event, m.Macros):
                            connection.sendall(milter.reply(*self._answer(name, event)))
                    events = milter.receive()

    def _note(self, name: bytes, event: m.CommandMessage) -> None:
        if isinstance(event, m.MailFrom):
            self.heard[name] = []
        if isinstance(event, m.MailFrom | m.RcptTo | m.Header | m.BodyChunk):
            self.heard[name].append(event)

    def _answer(self, name: bytes, event: m.CommandMessage) -> Sequence[m.Reply]:
        if not isinstance(event, m.EndOfMessage):
            return [m.Continue()]
        return [*self.cases[name].edits, m.QuarantineReply(b"to be read"), m.Accept()]


@contextmanager
def asking(path: Path, cases: Mapping[bytes, Case]) -> Iterator[Asking]:
    """The milter on a socket, in threads."""
    milter = Asking(path, cases)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(64)
        thread = threading.Thread(target=milter.serve, args=(listener,))
        thread.start()
        try:
            yield milter
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def submit(port: int, cases: Mapping[bytes, Case]) -> dict[bytes, bytes]:
    """Send every case in a session of its own; Postfix's answer to each."""
    with ThreadPoolExecutor(SESSIONS) as pool:
        return dict(pool.map(lambda one: (one[0], _submit(port, *one)), cases.items()))


def _submit(port: int, name: bytes, one: Case) -> bytes:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo(name.decode())
        _say(client, b" ".join([b"MAIL FROM:<" + one.sender + b">", *one.sender_args]))
        for address, args in one.recipients:
            _say(client, b" ".join([b"RCPT TO:<" + address + b">", *args]))
        client.docmd("DATA")
        message = one.message if one.message.endswith(b"\r\n") else one.message + b"\r\n"
        stuffed = re.sub(rb"(?m)^\.", b"..", message if one.message else b"")
        client.send(stuffed + b".\r\n")
        code, text = client.getreply()
        return b"%d %b" % (code, text)


def _say(client: smtplib.SMTP, line: bytes) -> None:
    client.send(line + b"\r\n")
    code, text = client.getreply()
    assert code == 250, (line, text)


def read_back(mta: Postfix, ids: Sequence[bytes]) -> dict[bytes, Queued]:
    """What the queue holds under these ids."""
    parts = [ids[at : at + 40] for at in range(0, len(ids), 40)]
    found: dict[bytes, Queued] = {}
    with ThreadPoolExecutor(2) as pool:
        for each in pool.map(lambda part: _postcat(mta, part), parts):
            found |= each
    return found


def _postcat(mta: Postfix, ids: Sequence[bytes]) -> dict[bytes, Queued]:
    paths = {one: str(mta.queue / "hold" / one.decode()) for one in ids}
    command = [program("postcat", "postfix"), "-c", str(mta.config), *paths.values()]
    said = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    found = {}
    for one, path in paths.items():
        name = path.encode()
        envelope = _between(said, b"*** ENVELOPE RECORDS %b ***\n" % name, b"*** MESSAGE CONTENTS")
        content = b"*** MESSAGE CONTENTS %b ***\n" % name
        octets = _between(said, content, b"*** HEADER EXTRACTED %b ***\n" % name)
        found[one] = _queued(one, octets.replace(b"\n", b"\r\n"), envelope)
    return found


def _between(text: bytes, start: bytes, end: bytes) -> bytes:
    return text.partition(start)[2].partition(end)[0]


def _queued(one: bytes, octets: bytes, envelope: bytes) -> Queued:
    """The last of several values counts, as the queue manager has it."""
    values: dict[bytes, bytes] = {}
    recipients: list[Person] = []
    for line in envelope.splitlines():
        name, _, value = line.partition(b": ")
        if name == b"named_attribute":
            name, _, value = value.partition(b"=")
        if name in (b"recipient", b"canceled_recipient"):
            orcpt = values.pop(b"dsn_orig_rcpt", b"")
            notify = int(values.pop(b"notify_flags", b"0"))
            if name == b"recipient":
                recipients.append((value, orcpt, notify))
        else:
            values[name] = value
    return Queued(
        octets, one, values[b"sender"], values.get(b"ret_flags", b""),
        values.get(b"envelope_id", b""), tuple(recipients),
    )  # fmt: skip


def flags_of(notify: bytes) -> int:
    """NOTIFY's value as the queue file has it."""
    return sum({_NOTIFY[each] for each in notify.lower().split(b",") if each})
