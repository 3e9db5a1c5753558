"""Both daemons on private sockets, each started when a test wants it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import smtplib
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from milterd.ports import keys
from tests.gateway.gateway import send_by
from tests.peers.process import Peer, daemon, free_port, wait_for

FILTERS = ("clamav", "headers", "dkim")
SELECTORS = {"rsa": "r", "ed25519": "e"}
PATIENCE = 50.0

_SETTINGS = """
[log]
format = "json"

[metrics]
milterd = "unix:{home}/milterd-metrics"
smtpgw = "unix:{home}/smtpgw-metrics"

[milterd]
socket_directory = "{sockets}"
socket_group = "{group}"

[filter.clamav]
clamd = "unix:{clamd}"
hostname = "mx.example.net"
{clamav}

[filter.headers]
{headers}

[filter.dkim]
signing_table = [{keys}]
{dkim}

[smtpgw]
myhostname = "mx.example.net"
mydestination = ["example.net"]
stop_timeout = 1
smtpd_authorized_xclient_hosts = ["127.0.0.1"]
{smtpgw}

[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:{port}"

{milters}

[smtpgw.queue]
directory = "{home}/queue"

[smtpgw.delivery]
default = "maildir:{home}/mail"
"""


@dataclass
class Halves:
    """One settings file below `home` and what runs by it.

    `clamd` is the scanner's socket, `sockets` the directory of the filters' own,
    which belong to `group` (empty: to us).
    """

    home: Path
    clamd: Path
    sockets: Path
    group: str = ""
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.settings = self.home / "gatepost.toml"
        for name, selector in SELECTORS.items():
            path = self.home / f"{selector}.pem"
            path.touch(mode=0o600)
            path.write_bytes(_new_key(name))
        self.write()

    @property
    def records(self) -> dict[str, str]:
        """The TXT records of both keys of example.net."""
        return {
            f"{each}._domainkey.example.net": keys.load(self.home / f"{each}.pem").record
            for each in SELECTORS.values()
        }

    def write(
        self,
        tables: Mapping[str, str] | None = None,
        *,
        milters: Mapping[str, str] | None = None,
    ) -> None:
        """Write the settings: lines for the tables clamav, headers, dkim and smtpgw, and the
        addresses of milters by name (our filters')."""
        if milters is None:
            milters = {each: f"unix:{self.sockets}/{each}.sock" for each in FILTERS}
        chain = "".join(
            f'[[smtpgw.milter]]\nname = "{name}"\naddress = "{address}"\n'
            for name, address in milters.items()
        )
        rows = ", ".join(
            f'{{ domain = "example.net", selector = "{each}", key = "{self.home}/{each}.pem" }}'
            for each in SELECTORS.values()
        )
        empty = dict.fromkeys(("clamav", "headers", "dkim", "smtpgw"), "")
        text = _SETTINGS.format(
            home=self.home, sockets=self.sockets, group=self.group, clamd=self.clamd,
            keys=rows, port=self.port, milters=chain,
            **(empty | dict(tables or {})),
        )  # fmt: skip
        self.settings.write_text(text)

    # -- the daemons -----------------------------------------------------------------

    @contextlib.contextmanager
    def milterd(self) -> Iterator[Peer]:
        """Run milterd; every filter is at work when it is yielded."""
        before = len(self.events("milterd", "serving"))
        serving = lambda: len(self.events("milterd", "serving")) - before >= len(FILTERS)  # noqa: E731 - once
        with daemon("milterd", self.command("milterd", "run"), self.home, serving) as peer:
            yield peer

    @contextlib.contextmanager
    def smtpgw(self) -> Iterator[Peer]:
        """Run smtpgw; it takes mail when it is yielded, if its milters let it."""
        before = len(self.events("smtpgw", "ready"))
        ready = lambda: len(self.events("smtpgw", "ready")) > before  # noqa: E731 - once
        with daemon("smtpgw", self.command("smtpgw", "run"), self.home, ready) as peer:
            yield peer

    def command(self, module: str, *words: str) -> list[str]:
        """A command of ours with these settings."""
        return [sys.executable, "-m", module, *words, "--config", str(self.settings)]

    def reload(self, milterd: Peer) -> None:
        """Have milterd take the settings as they stand now; they have to be good."""
        before = len(self.events("milterd", "serving"))
        os.kill(milterd.pid, signal.SIGHUP)
        serving = lambda: len(self.events("milterd", "serving")) - before >= len(FILTERS)  # noqa: E731 - once
        wait_for(serving, "milterd reloads")

    # -- what they say ---------------------------------------------------------------

    def log(self, name: str) -> list[dict[str, Any]]:
        """Every whole line of a daemon's log; each has to be JSON."""
        path = self.home / f"{name}.log"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def events(self, daemon_name: str, event: str, **values: object) -> list[dict[str, Any]]:
        """The lines of one event whose values are these."""
        return [
            line
            for line in self.log(daemon_name)
            if line["event"] == event and all(line.get(key) == val for key, val in values.items())
        ]

    def told(self, daemon_name: str, event: str, **values: object) -> list[dict[str, Any]]:
        """The same, once there are any: a log is written after the answer that it tells of."""
        about = f"{event} in the log of {daemon_name}"
        wait_for(lambda: bool(self.events(daemon_name, event, **values)), about)
        return self.events(daemon_name, event, **values)

    def troubles(self) -> list[dict[str, Any]]:
        """Every line of both logs that is a warning or worse."""
        lines = [*self.log("milterd"), *self.log("smtpgw")]
        return [each for each in lines if each["level"] not in ("debug", "info")]

    def metrics(self, name: str) -> dict[str, float]:
        """A daemon's samples by name and labels, as its endpoint gives them."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(f"{self.home}/{name}-metrics")
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {sample: float(value) for sample, _, value in pairs}

    # -- mail ------------------------------------------------------------------------

    @contextlib.contextmanager
    def client(self, helo: str = "client.example.org") -> Iterator[smtplib.SMTP]:
        """A connection after EHLO."""
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            client.ehlo(helo)
            yield client
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()
            client.close()

    def send(
        self,
        message: bytes,
        recipients: Sequence[str] = ("u@example.net",),
        address: str = "",
    ) -> tuple[int, str]:
        """Send a message as it is, for a client of that address if it is given (XCLIENT); the last
        answer, be it the banner's."""
        try:
            with self.client() as client:
                if address:
                    client.docmd("XCLIENT", f"NAME=client.example.org ADDR={address}")
                    client.ehlo("client.example.org")
                return send_by(client, message, "a@example.net", recipients)
        except smtplib.SMTPConnectError as error:
            return error.smtp_code, words(error)

    def stored(self, address: str = "u@example.net") -> list[bytes]:
        """Every mail in a Maildir by now."""
        new = self.home / "mail" / address / "new"
        return [each.read_bytes() for each in _files(new)]

    def delivered(self, count: int = 1, address: str = "u@example.net") -> list[bytes]:
        """The mails in a Maildir once there are so many."""
        wait_for(lambda: len(self.stored(address)) >= count, f"mail for {address}")
        return self.stored(address)


def words(error: smtplib.SMTPResponseException) -> str:
    """What the server said; smtplib keeps octets, whatever its types say."""
    text = error.smtp_error
    return text.decode() if isinstance(text, bytes) else text


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _new_key(kind: str) -> bytes:
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ed25519.Ed25519PrivateKey.generate()
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
