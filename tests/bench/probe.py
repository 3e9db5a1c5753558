"""One client that times the answer to the dot, alone or while others load the server.

Its mails are all different, from the first line of the body on.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WAIT = 60.0
_PAUSE = 0.02


class Probe:
    """A kept connection; `seconds` are how long each dot's answer took."""

    def __init__(self, port: int, size: int, *, tls: bool = False) -> None:
        self.seconds: list[float] = []
        self._size = size
        self._count = itertools.count()
        self._socket = socket.create_connection(("127.0.0.1", port), _WAIT)
        # Without it the dot waits for the acknowledgement of the message, 40 ms on Linux.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._answer()
        self._say(b"EHLO probe.example.net\r\n")
        if tls:
            self._start_tls()

    def _start_tls(self) -> None:
        """STARTTLS; whose certificate it is does not matter here."""
        self._say(b"STARTTLS\r\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._answers.close()
        self._socket = context.wrap_socket(self._socket)
        self._answers = self._socket.makefile("rb")
        self._say(b"EHLO probe.example.net\r\n")

    def _answer(self) -> bytes:
        while True:
            line = self._answers.readline()
            if line[3:4] != b"-":
                if line[:1] not in (b"2", b"3"):
                    raise RuntimeError(f"the server said {line!r}")
                return line

    def _say(self, octets: bytes) -> None:
        self._socket.sendall(octets)
        self._answer()

    def mail(self) -> None:
        """One mail more."""
        for line in (b"MAIL FROM:<a@example.net>", b"RCPT TO:<u@example.net>", b"DATA"):
            self._say(line + b"\r\n")
        self._socket.sendall(self._message())
        began = time.perf_counter()
        self._say(b".\r\n")
        self.seconds.append(time.perf_counter() - began)

    def _message(self) -> bytes:
        number = next(self._count)
        line = (b"%d %b " % (number, os.urandom(24).hex().encode()))[:70] + b"\r\n"
        head = b"From: <a@example.net>\r\nTo: <u@example.net>\r\nSubject: probe %d\r\n\r\n" % number
        return head + line * max(1, self._size // len(line))

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()


@contextmanager
def probing(port: int, size: int, *, tls: bool = False) -> Iterator[Probe]:
    """A probe at work, a mail every 20 ms at most, while the caller has others send."""
    probe, over = Probe(port, size, tls=tls), threading.Event()
    failed: list[Exception] = []

    def run() -> None:
        try:
            while not over.wait(_PAUSE):
                probe.mail()
        except (OSError, RuntimeError) as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield probe
    finally:
        over.set()
        thread.join()
        probe.close()
    if failed:
        raise failed[0]


def quantile(seconds: list[float], share: float) -> float:
    """Milliseconds that this share of them took at most."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]
