"""The whole road on private sockets and a private queue, ready to be killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.crash.stack import Daemon, Killer
from tests.filters.dkim_world import ED25519, RSA, write_key
from tests.peers.clamd import clamd
from tests.peers.process import answers, directory, free_port, wait_for

FILTERS = ("clamav", "headers", "dkim")
DELIVERIES = 20
MEASURED = 500
"""Mails in delivery at once in one worker where the road is measured (tests/bench/servers.py)."""

_SETTINGS = """
[log]
format = "json"
level = "{level}"

[metrics]
milterd = ""
smtpgw = ""

[milterd]
socket_directory = "{home}/m"
socket_group = ""
service_throttle_time = "0.3s"

{tables}

[smtpgw]
myhostname = "mx.example.net"
workers = {workers}
worker_cpu_affinity = {affinity}
service_throttle_time = "0.3s"
takeover_delay = "0.1s"

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
default = "{delivery}"
"""
_TABLES = """
[filter.clamav]
clamd = "unix:{clamd}"

[filter.headers]

[filter.dkim]
signing_table = [{{ domain = "example.net", selector = "s", key = "{home}/key.pem" }}]
"""


@dataclass
class Town:
    """Both daemons (not started yet), where mail goes in, and where the sink has to be."""

    home: Path
    settings: Path
    port: int
    daemons: Sequence[Daemon]
    filters: Sequence[str] = FILTERS

    deliveries_in_flight: int = DELIVERIES
    """Mails in delivery at once in one worker: what one crash may deliver twice."""

    @property
    def sink(self) -> Path:
        return self.home / "sink"

    def wait_until_up(self) -> None:
        """Until the gateway answers and every filter listens."""
        for each in self.filters:
            path = self.home / "m" / f"{each}.sock"
            wait_for(lambda path=path: answers(path), f"{path} answers")
        wait_for(lambda: answers(self.port, b"220"), "the gateway answers")

    def logs(self) -> str:
        """The end of what the daemons said."""
        return "\n".join(each.log.read_text(errors="replace")[-5000:] for each in self.daemons)

    def queued(self) -> list[dict[str, object]]:
        """The mails in the queue, as `smtpgw queue list` tells them."""
        command = [sys.executable, "-m", "smtpgw", "queue", "list", "--json"]
        command += ["--config", str(self.settings)]
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return [json.loads(line) for line in listed.stdout.splitlines()]

    def check_nothing_left(self) -> None:
        """No mail, body, socket or process stays behind once all is delivered and stopped."""
        assert self.queued() == []
        assert list(self.home.glob("queue/**/bodies/*")) == []
        assert list(self.home.glob("queue/spool/*")) == []
        assert list(self.home.glob("m/*.sock")) == []
        assert [pid for each in self.daemons for pid in each.tree()] == []


@contextmanager
def town(
    *,
    workers: int = 1,
    delivery: str = "",
    filters: bool = True,
    measured: bool = False,
    scanner: Path | None = None,
    sockets: bool = True,
) -> Iterator[Town]:
    """Lay it out, with a clamd that is not killed; whatever still runs at the end is.

    `delivery` is where mail goes, the sink's socket if empty; `scanner` the socket of a clamd
    that is there already.  `measured`: with the settings that the benchmarks of the whole road
    have, which also log as they do by default and sign with RSA.  Without `sockets` the workers
    run the filters themselves, and there is no milterd.
    """
    deliveries = MEASURED if measured else DELIVERIES
    with ExitStack() as stack:
        home = stack.enter_context(directory("town"))
        port = free_port()
        (home / "m").mkdir()
        names = FILTERS if filters else ()
        tables = ""
        if filters:
            if scanner is None:
                started = stack.enter_context(clamd(stack.enter_context(directory("clamd"))))
                scanner = started.socket
            write_key(home / "key.pem", RSA if measured else ED25519)
            tables = _TABLES.format(home=home, clamd=scanner)
        settings = home / "gatepost.toml"
        settings.write_text(
            _SETTINGS.format(
                home=home,
                level="info" if measured else "warning",
                port=port,
                workers=workers,
                affinity=str(measured).lower(),
                tables=tables,
                milters="".join(_milter(home, each, sockets) for each in names),
                deliveries=deliveries,
                delivery=delivery or f"lmtp:unix:{home}/sink",
            )
        )
        daemons = [
            Daemon(("-m", name, "run", "--config", str(settings)), home / f"{name}.log")
            for name in (("milterd", "smtpgw") if filters and sockets else ("smtpgw",))
        ]
        try:
            listening = names if sockets else ()
            yield Town(home, settings, port, daemons, listening, deliveries)
        finally:
            for each in daemons:
                for pid in reversed(each.tree()):
                    Killer([]).kill(each, pid)


def _milter(home: Path, name: str, sockets: bool) -> str:
    address = f"unix:{home}/m/{name}.sock" if sockets else f"filter:{name}"
    return f'[[smtpgw.milter]]\nname = "{name}"\naddress = "{address}"\n'
