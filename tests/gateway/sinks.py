"""An SMTP server of a test's own that knows when and how much at once it was given."""

from __future__ import annotations

import contextlib
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Taken:
    """One mail: its recipients, its octets, and when it began (MAIL) and was answered."""

    recipients: tuple[bytes, ...]
    text: bytes
    began: float
    ended: float


@dataclass
class Sink:
    """What it took; `most` is how many mails it had at once.  It answers a message only while
    `open` is set."""

    port: int = 0
    mails: list[Taken] = field(default_factory=list)
    busy: int = 0
    most: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Session(socketserver.StreamRequestHandler):
    sink: Sink

    def handle(self) -> None:
        recipients: list[bytes] = []
        began = 0.0
        self._say(b"220 sink.example ESMTP")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"QUIT":
                return
            if verb == b"MAIL":
                recipients, began = [], time.monotonic()
            elif verb == b"RCPT":
                recipients.append(line.partition(b"<")[2].partition(b">")[0])
            if verb == b"DATA":
                self._message(tuple(recipients), began)
            else:
                self._say(b"250 2.0.0 ok")

    def _message(self, recipients: tuple[bytes, ...], began: float) -> None:
        sink = self.sink
        with sink.lock:
            sink.busy += 1
            sink.most = max(sink.most, sink.busy)
        self._say(b"354 go")
        text = b""
        while not text.endswith(b"\r\n.\r\n"):
            text += self.rfile.readline() or b"\r\n.\r\n"
        sink.open.wait(60)
        with sink.lock:
            sink.busy -= 1
            sink.mails.append(Taken(recipients, text[:-3], began, time.monotonic()))
        self._say(b"250 2.0.0 taken")

    def _say(self, line: bytes) -> None:
        self.wfile.write(line + b"\r\n")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def sink(address: str, port: int = 0) -> Iterator[Sink]:
    """Run one at a loopback address; it answers at once until `open` is cleared."""
    found = Sink()
    found.open.set()

    class Session(_Session):
        sink = found

    with _Server((address, port), Session) as server:
        found.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            found.open.set()
            server.shutdown()
            thread.join()
