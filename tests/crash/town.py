"""The whole road on private sockets and a private queue, ready to be killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.crash.stack import Daemon, Killer
from tests.peers.clamd import clamd
from tests.peers.process import answers, directory, free_port, wait_for

FILTERS = ("clamav", "headers", "dkim")
DELIVERIES = 20

_SETTINGS = """
[log]
format = "json"
level = "warning"

[metrics]
milterd = ""
smtpgw = ""

[milterd]
socket_directory = "{home}/m"
socket_group = ""
service_throttle_time = "0.3s"

[filter.clamav]
clamd = "unix:{clamd}"

[filter.headers]

[filter.dkim]
signing_table = [{{ domain = "example.net", selector = "s", key = "{home}/key.pem" }}]

[smtpgw]
myhostname = "mx.example.net"
workers = {workers}
service_throttle_time = "0.3s"

[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{port}"

{milters}

[smtpgw.queue]
directory = "{home}/queue"
minimal_backoff_time = "1s"
maximal_backoff_time = "2s"
qmgr_message_active_limit = {deliveries}

[smtpgw.delivery]
default = "lmtp:unix:{home}/sink"
"""


@dataclass
class Town:
    """Both daemons (not started yet), where mail goes in, and where the sink has to be."""

    home: Path
    settings: Path
    port: int
    daemons: Sequence[Daemon]

    deliveries_in_flight: int = DELIVERIES
    """Mails in delivery at once in one worker: what one crash may deliver twice."""

    @property
    def sink(self) -> Path:
        return self.home / "sink"

    def wait_until_up(self) -> None:
        """Until the gateway answers and every filter listens."""
        for each in FILTERS:
            path = self.home / "m" / f"{each}.sock"
            wait_for(lambda path=path: answers(path), f"{path} answers")
        wait_for(lambda: answers(self.port, b"220"), "the gateway answers")

    def gateway_kills(self, killer: Killer) -> int:
        """How often a process of the gateway was killed."""
        return sum(times for what, times in killer.killed.items() if what.startswith("smtpgw"))

    def logs(self) -> str:
        """The end of what the daemons said."""
        return "\n".join(each.log.read_text(errors="replace")[-5000:] for each in self.daemons)

    def check_nothing_left(self) -> None:
        """No mail, body, socket or process stays behind once all is delivered and stopped."""
        command = [sys.executable, "-m", "smtpgw", "queue", "list", "--json"]
        command += ["--config", str(self.settings)]
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert json.loads(listed.stdout or b"[]") == []
        assert list(self.home.glob("queue/**/bodies/*")) == []
        assert list(self.home.glob("queue/spool/*")) == []
        assert list(self.home.glob("m/*.sock")) == []
        assert [pid for each in self.daemons for pid in each.tree()] == []


@contextmanager
def town(workers: int = 1) -> Iterator[Town]:
    """Lay it out, with a clamd that is not killed; whatever still runs at the end is."""
    with ExitStack() as stack:
        home = stack.enter_context(directory("town"))
        scanner = stack.enter_context(clamd(stack.enter_context(directory("clamd"))))
        port = free_port()
        (home / "m").mkdir()
        _make_key(home / "key.pem")
        milters = "".join(
            f'[[smtpgw.milter]]\nname = "{each}"\naddress = "unix:{home}/m/{each}.sock"\n'
            for each in FILTERS
        )
        settings = home / "gatepost.toml"
        settings.write_text(
            _SETTINGS.format(
                home=home,
                clamd=scanner.socket,
                port=port,
                workers=workers,
                milters=milters,
                deliveries=DELIVERIES,
            )
        )
        daemons = [
            Daemon(("-m", name, "run", "--config", str(settings)), home / f"{name}.log")
            for name in ("milterd", "smtpgw")
        ]
        try:
            yield Town(home, settings, port, daemons)
        finally:
            for each in daemons:
                for pid in reversed(each.tree()):
                    Killer([]).kill(each, pid)


def _make_key(path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    octets = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.touch(mode=0o600)
    path.write_bytes(octets)
