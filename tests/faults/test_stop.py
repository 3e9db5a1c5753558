"""SIGTERM under load (F24): whoever was answered with 250 has his mail delivered, once; whoever
was not was told 421 or lost the connection; the gateway ends in its time, with status 0.

That a transaction under way may end, that one who dawdles is cut off, and that a second signal
waits for nobody, is in tests/gateway/test_process.py.
"""

from __future__ import annotations

import smtplib
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import place
from tests.gateway.gateway import Gateway, send_by, until
from tests.steady import Running

CLIENTS = 8
PATIENCE = 5.0


@dataclass
class Book:
    """What the clients were told."""

    promised: set[str] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    lost: int = 0

    def client(self, gateway: Gateway, name: str) -> None:
        """Send mail after mail until the gateway ends."""
        try:
            with gateway.client() as client:
                for number in range(100_000):
                    address = f"{name}-{number}@example.net"
                    text = f"Subject: {address}\r\n\r\n{address}\r\n".encode()
                    code, _ = send_by(client, text, "a@example.org", [address])
                    if code != 250:
                        self.refused.add(code)
                        return
                    self.promised.add(address)
        except (OSError, smtplib.SMTPException):
            self.lost += 1


def test_what_was_promised_before_a_stop_is_delivered_once() -> None:
    with place.home() as home, place.gateway(home) as gateway:
        gateway.configure(stop_timeout=PATIENCE)
        gateway.start()
        book = Book()
        clients = [
            threading.Thread(target=book.client, args=[gateway, f"c{number}"])
            for number in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        until(lambda: len(book.promised) > 10 * CLIENTS, what="load")
        with Running() as clock:
            began = clock()
            assert gateway.stop() == 0
            assert clock() - began < 2 * PATIENCE
        for each in clients:
            each.join()
        assert book.refused <= {421}
        assert len(book.refused) or book.lost
        gateway.start()
        until(lambda: delivered(home) == dict.fromkeys(book.promised, 1), what="all mail")


def delivered(home: Path) -> dict[str, int]:
    """How many mails each Maildir has."""
    return {each.name: len(list(each.glob("new/*"))) for each in (home / "mail").iterdir()}
