"""A server for socketmap: and tcp: that says what a test tells it, in a thread of its own."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Answer = Callable[[bytes], bytes | None]
"""What to say to what has come so far; None: hang up."""


class Scripted:
    """`answer` may be changed at any time; `asked` is what came, `connections` all there were."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.port = 0

    @property
    def opened(self) -> int:
        return len(self.connections)

    def serve(self, connection: socket.socket) -> None:
        self.connections.append(connection)
        try:
            while octets := connection.recv(200_000):
                self.asked.append(octets)
                said = self.answer(octets)
                if said is None:
                    return
                connection.sendall(said)
        except OSError:
            return  # the client has had enough


@contextmanager
def scripted(answer: Answer, path: Path | None = None) -> Iterator[Scripted]:
    """Run it on a loopback port, or on the UNIX socket `path`."""
    script = Scripted(answer)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            script.serve(self.request)

    class Inet(socketserver.ThreadingTCPServer):
        daemon_threads = True

    class Unix(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    server = Unix(str(path), Handler) if path else Inet(("127.0.0.1", 0), Handler)
    if not path:
        script.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
