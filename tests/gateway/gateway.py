"""The real `smtpgw run`, started by a test with settings of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.gateway.preloaded import Forked, house
from tests.peers.process import free_port

PATIENCE = 50.0

T = TypeVar("T")


def until(condition: Callable[[], T], patience: float = PATIENCE, what: str = "") -> T:
    """What `condition` says once it says something; fails after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what or condition}")
        _pause()


def _pause() -> None:
    """Let the others run for a moment: the machine is shared."""
    with contextlib.suppress(TimeoutError):
        signal.sigtimedwait([], 0.02)


@dataclass
class Gateway:
    """A gateway below `place`, with one `mx` listener and Maildir delivery unless told else.

    It is a fork of one that has its modules loaded; with `loads`, it starts as it does for a
    user.
    """

    place: Path
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | Forked | None = None
    loads: bool = False

    def __post_init__(self) -> None:
        self.file = self.place / "gatepost.toml"
        self.log_file = self.place / "log"
        self.mail = self.place / "mail"
        self.queue = self.place / "queue"
        self.configure()

    def configure(
        self,
        top: str = "",
        tables: str = "",
        delivery: str = "",
        stop_timeout: float = 1,
        queue: str = "",
    ) -> None:
        """Write the settings: lines for [smtpgw], further tables, the delivery's default, lines
        for [smtpgw.queue].

        Names are asked of nobody, unless a table says of whom.
        """
        if "[smtpgw.dns]" not in tables:
            tables += '\n[smtpgw.dns]\nnameservers = ["127.0.0.1:1"]\n'
        if "[smtpgw.decisions]" not in tables:
            # Replies are compared as they are written elsewhere; references are told one by one.
            tables += "\n[smtpgw.decisions]\nin_replies = false\n"
        self.file.write_text(
            f"""
[log]
format = "json"
[metrics]
smtpgw = "127.0.0.1:{self.metrics_port}"
[smtpgw]
myhostname = "gw.example.net"
mydestination = ["example.net"]
stop_timeout = {stop_timeout}
{top}
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{self.port}"
[smtpgw.queue]
directory = "{self.queue}"
{queue}
[smtpgw.delivery]
default = "{delivery or f"maildir:{self.mail}"}"
{tables}
"""
        )

    def start(
        self,
        *,
        wait: bool = True,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
    ) -> Self:
        """Start it, and wait until all workers are ready."""
        ready = self.count("ready")
        words = ["run", "-c", str(self.file)]
        with self.log_file.open("ab") as log:
            if self.loads or prefix or environ or pass_fds:
                self.process = subprocess.Popen(
                    [*prefix, sys.executable, "-m", "smtpgw", *words],
                    stderr=log,
                    stdout=log,
                    env={**os.environ, **(environ or {})},
                    pass_fds=pass_fds,
                )
            else:
                self.process = house().run(words, log.fileno(), os.environ)
        if wait:
            until(lambda: self.count("ready") > ready or self._ended(), what="ready")
            assert self.process.poll() is None, self.log_file.read_text()
        return self

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for pid in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        numbers = self.queue / "metrics-smtpgw"
        if numbers.is_symlink():  # of a supervisor that was killed
            shutil.rmtree(numbers.readlink(), ignore_errors=True)

    def log(self) -> list[dict[str, Any]]:
        """Every whole line of the log."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self, name: str, **values: object) -> list[dict[str, Any]]:
        """The lines of one event whose values are these."""
        return [
            line
            for line in self.log()
            if line["event"] == name and all(line.get(key) == val for key, val in values.items())
        ]

    def told(self, name: str, **values: object) -> list[dict[str, Any]]:
        """The same, once there are any: the log is written after the answer that it tells of."""
        return until(lambda: self.events(name, **values), what=f"{name} in the log")

    def count(self, name: str, **values: object) -> int:
        """How many of those there are."""
        return len(self.events(name, **values))

    def workers(self) -> list[int]:
        """The process ids of the workers that live."""
        started = [e["pid"] for e in self.events("child started") if e["room"] == "supervisor"]
        return [pid for pid in started if Path(f"/proc/{pid}/status").exists() and not _dead(pid)]

    @contextlib.contextmanager
    def client(self) -> Iterator[smtplib.SMTP]:
        """A connection after EHLO."""
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            client.ehlo("client.example.org")
            yield client
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            client.close()

    def send(
        self,
        message: bytes = b"Subject: hello\r\n\r\nhello\r\n",
        sender: str = "a@example.org",
        recipients: Sequence[str] = ("u@example.net",),
    ) -> tuple[int, str]:
        """Send a message as it is; the last answer."""
        with self.client() as client:
            return send_by(client, message, sender, recipients)

    def delivered(self, address: str = "u@example.net", count: int = 1) -> list[bytes]:
        """The files in a Maildir, once there are `count` of them."""
        new = self.mail / address / "new"

        def files() -> list[Path]:
            found = sorted(new.iterdir()) if new.is_dir() else []
            return found if len(found) >= count else []

        return [each.read_bytes() for each in until(files, what=f"mail for {address}")]

    def metrics(self) -> dict[str, float]:
        """Every sample by name and labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}


def send_by(
    client: smtplib.SMTP, message: bytes, sender: str, recipients: Sequence[str]
) -> tuple[int, str]:
    """One transaction; the answer that ended it."""
    code, text = client.mail(sender)
    for each in recipients if code == 250 else ():
        code, text = client.rcpt(each)
    if code == 250:
        code, text = client.docmd("DATA")
        assert code == 354, text
        client.send(message.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        code, text = client.getreply()
    return code, text.decode()


def _dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
