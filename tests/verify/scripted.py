"""Hosts that answer RCPT by the local part: ok, no, later, and silence; SMTP and LMTP."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWERS = {
    b"ok": b"250 2.1.5 Ok\r\n",
    b"no": b"550 5.1.1 No such user here\r\n",
    b"later": b"450 4.2.1 Try again later\r\n",
    b"full": b"452 4.2.2 Mailbox full\r\n",
    b"odd": b"552 5.2.2 Over quota\r\n",
}


class Host:
    """`lines` are all commands that it got."""

    def __init__(self, *, pipelining: bool = True) -> None:
        self.lines: list[bytes] = []
        self.pipelining = pipelining
        self.senders: list[bytes] = []
        self.port = 0
        self.ending = threading.Event()

    def rcpts(self, address: bytes) -> int:
        """How often it was asked about an address."""
        return sum(1 for each in self.lines if each.upper().startswith(b"RCPT") and address in each)

    def reply(self, line: bytes) -> bytes | None:
        """What it says to a command; None for silence."""
        verb = line[:4].upper()
        if verb in (b"EHLO", b"LHLO"):
            more = b"250-PIPELINING\r\n" if self.pipelining else b""
            return b"250-host.example\r\n" + more + b"250 ENHANCEDSTATUSCODES\r\n"
        if verb == b"MAIL" and b"<refused@" in line:
            return b"554 5.7.1 Not from you\r\n"
        if verb != b"RCPT":
            return b"221 2.0.0 Bye\r\n" if verb == b"QUIT" else b"250 2.0.0 Ok\r\n"
        local = line.partition(b"<")[2].partition(b"@")[0]
        return None if local == b"silent" else _ANSWERS.get(local, _ANSWERS[b"ok"])

    @contextmanager
    def running(self) -> Iterator[Host]:
        """While it answers on a port of its own."""
        host = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 host.example ESMTP\r\n")
                while line := self.rfile.readline(4096):
                    host.lines.append(line.rstrip())
                    answer = host.reply(line)
                    if answer is None:
                        host.ending.wait(60)
                        return
                    self.wfile.write(answer)
                    if answer.startswith(b"221"):
                        return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        with Server(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self.ending.set()
                server.shutdown()
                thread.join(10)
