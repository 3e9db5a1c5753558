"""A mail in whose delivery worker after worker crashes is held; all other mail goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from smtpgw.queue.tools import QueueTool
from tests.gateway.gateway import Gateway, until
from tests.gateway.test_takeover import worker


@contextlib.contextmanager
def silent(path: Path) -> Iterator[socket.socket]:
    """A socket where connections are made and nothing is said."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        one.listen(64)
        one.settimeout(20)
        yield one


def test_a_mail_that_crashes_workers_is_held(gateway: Gateway, place: Path) -> None:
    """The crash is ours: SIGSEGV while the mail is in delivery, as from a broken library."""
    tables = f'[smtpgw.transport]\n"example.org" = "lmtp:unix:{place}/silent"\n'
    gateway.configure("service_throttle_time = 1", tables)
    with silent(place / "silent") as peer:
        gateway.start()
        assert gateway.send(recipients=("killer@example.org",))[0] == 250
        for _ in range(3):
            in_delivery, _ = peer.accept()
            pid = until(lambda: worker(gateway, 0), what="the worker")
            os.kill(pid, signal.SIGSEGV)
            until(lambda pid=pid: worker(gateway, 0) not in (0, pid), what="the next worker")  # type: ignore[misc]
            in_delivery.close()
        (said,) = until(lambda: gateway.events("queue.hold"), what="the hold")
        assert gateway.send()[0] == 250
        gateway.delivered()
    with contextlib.closing(QueueTool(gateway.queue)) as tool:
        (mail,) = tool.list(Filter(frozenset({MailState.HOLD})))
    assert mail.note == said["reason"]
    assert "3 workers crashed while this mail was in delivery, the last by SIGSEGV" in mail.note
