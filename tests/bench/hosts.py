"""Compare the two hosts: throughput, processor time, memory, stopping, 8-bit edits.

    python -m tests.bench.hosts [--seconds 5]

prints the tables of docs/hosts.md.  Every row runs milterd as it is shipped, one
process a filter, on a UNIX socket; the client sends whole messages in one piece over
eight connections, its octets made beforehand, so that it costs little beside the host.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from milterd.wire import messages as m
from milterd.wire.frames import FrameDecoder
from milterd.wire.mta import MtaConnection
from tests.host.conftest import Hosted, until
from tests.host.mta import ANSWERED, Mta
from tests.host.test_daemon import Milterd, children

HOSTS = ("libmilter", "native")
SIZES = {"4 kB": 4_000, "100 kB": 100_000, "1 MB": 1_000_000}
CONNECTIONS = 8
TICK = os.sysconf("SC_CLK_TCK")

HEADERS = [
    (b"Received", b" from a.example (a.example [192.0.2.1])\n\tby b.example with ESMTP id 4XYZ"),
    (b"From", b" A <a@example.net>"),
    (b"To", b" B <b@example.org>"),
    (b"Subject", b" a plain subject of some length"),
    (b"Date", b" Fri, 21 Nov 2025 09:00:00 +0000"),
    (b"Message-ID", b" <1234567890@example.net>"),
    (b"MIME-Version", b" 1.0"),
    (b"Content-Type", b" text/plain; charset=utf-8"),
    (b"User-Agent", b" Mutt"),
    (b"X-Mailer", b" something"),
]


@dataclass(frozen=True)
class Load:
    """What a run of messages came to."""

    per_second: float
    cpu_ms: float


def message(mta: MtaConnection, size: int) -> bytes:
    """All events of one message, as this milter wants them."""
    line = b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n"
    body = (line * (size // len(line) + 1))[: size - 2] + b"\r\n"
    macros = ((b"{auth_type}", b"PLAIN"), (b"{auth_authen}", b"u"))
    parts = [
        mta.send(m.MailFrom(b"<a@example.net>"), macros),
        mta.send(m.RcptTo(b"<b@example.org>")),
        mta.send(m.Data()),
        *(mta.send(m.Header(name, value)) for name, value in HEADERS),
        mta.send(m.EndOfHeaders()),
        *(mta.send(m.BodyChunk(body[at : at + 65535])) for at in range(0, len(body), 65535)),
        mta.send(m.EndOfMessage(), ((b"i", b"4XYZ"),)),
    ]
    return b"".join(parts)


class Client:
    """One connection that sends the same message again and again."""

    def __init__(self, address: str, size: int) -> None:
        self._mta = Mta(address)
        self._mta.greet()
        self._socket = self._mta.socket
        self._octets = message(self._mta.wire, size)

    def send(self) -> None:
        self._socket.sendall(self._octets)

    def receive(self) -> None:
        frames = FrameDecoder(2**20)
        while True:
            frames.feed(self._socket.recv(65536))
            while (found := frames.next_frame()) is not None:
                if found[0] in b"catrdy":
                    return

    def close(self) -> None:
        self._mta.close()


def load(address: str, pid: int, size: int, seconds: float) -> Load:
    """Messages for so long, over all connections in turn."""
    clients = [Client(address, size) for _ in range(CONNECTIONS)]
    count, cpu, began = 0, cpu_seconds(pid), time.monotonic()
    while time.monotonic() - began < seconds:
        for each in clients:
            each.send()
        for each in clients:
            each.receive()
        count += len(clients)
    took, cpu = time.monotonic() - began, cpu_seconds(pid) - cpu
    for each in clients:
        each.close()
    return Load(count / took, cpu / count * 1000)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int, what: str) -> float:
    """MiB of a process: VmRSS, or VmHWM for the most it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {what}")


@contextmanager
def milterd(host: str, name: str) -> Iterator[tuple[str, int, Milterd]]:
    """milterd with one filter: its socket, its filter's process, and itself."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gpb-") as directory:
        path = Path(directory)
        made = Milterd(path, host)
        key = path / "key.pem"
        write_key(key)
        table = {
            "headers": 'authserv_id = "mx.example.net"\nhostname = "mx.example.net"',
            "dkim": f'signing_table = [{{domain="example.net", selector="s", key="{key}"}}]',
        }[name]
        made.config.write_text(f"""
[log]
format = "json"
level = "warning"
[metrics]
milterd = ""
[milterd]
socket_directory = "{path}"
socket_group = ""
[filter.{name}]
host = "{host}"
{table}
""")
        made.start()
        address = str(path / f"{name}.sock")
        try:
            until(lambda: made.running() and Path(address).exists(), 60)
            Mta(address).close()
            (child,) = children(made.pid)
            yield address, child, made
        finally:
            made.close()


def write_key(path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def throughput(seconds: float) -> None:
    """The first table, best of three runs each."""
    print("| filter, message | libmilter | native | native / libmilter |")
    print("|---|---|---|---|")
    for name in ("headers", "dkim"):
        for label, size in SIZES.items():
            if name == "headers" and label != "4 kB":
                continue  # it is not shown the body
            best: dict[str, Load] = {}
            for host in HOSTS * 3:
                with milterd(host, name) as (address, pid, _):
                    load(address, pid, size, 0.3)
                    found = load(address, pid, size, seconds / 3)
                if host not in best or found.per_second > best[host].per_second:
                    best[host] = found
            row(f"`{name}`, {label}", best)
    best = {}
    for host in HOSTS:
        with scripted(host) as host_of:
            best[host] = waiting(host_of, seconds)
    row("a filter that waits 20 ms for a peer, 4 kB", best)


def row(label: str, found: dict[str, Load]) -> None:
    cells = [f"{each.per_second:,.0f}/s, {each.cpu_ms:.2f} ms" for each in found.values()]
    ratio = found["native"].per_second / found["libmilter"].per_second
    print(f"| {label} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)


@contextmanager
def scripted(host: str) -> Iterator[Hosted]:
    """A host with the tests' scripted filter."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gpb-") as directory:
        made = Hosted(host, "script", Path(directory), socket.AF_UNIX, {})
        made.mta().close()
        yield made
        made.close()


def waiting(host: Hosted, seconds: float) -> Load:
    """Eight connections to a filter that waits: they must not wait for each other."""
    crowd = [host.mta().greet() for _ in range(CONNECTIONS)]
    slow = [*HEADERS, (b"X-Case", b" slow:0.02")]
    count, cpu, began = 0, cpu_seconds(host.process.pid), time.monotonic()
    while time.monotonic() - began < seconds:
        for mta in crowd:
            mta.begin(slow)
            mta.socket.sendall(mta.wire.send(m.EndOfMessage()))
        for mta in crowd:
            mta._replies()
            mta.say(m.Abort())
        count += len(crowd)
    took, cpu = time.monotonic() - began, cpu_seconds(host.process.pid) - cpu
    for mta in crowd:
        mta.close()
    return Load(count / took, cpu / count * 1000)


def others() -> None:
    """The second table."""
    rows: dict[str, list[str]] = {}

    def note(label: str, value: str) -> None:
        rows.setdefault(label, []).append(value)

    for host in HOSTS:
        with milterd(host, "headers") as (address, pid, _):
            note("memory at rest", f"{memory(pid, 'VmRSS'):.0f} MiB")
            crowd = [Mta(address).greet() for _ in range(100)]
            note("memory with 100 sessions", f"{memory(pid, 'VmRSS'):.0f} MiB")
            for each in crowd:
                each.close()
            idle = Mta(address).greet()
            note("SIGTERM to exit, idle session open", f"{stop(pid):.2f} s")
            idle.close()
        with milterd(host, "dkim") as (address, pid, _):
            load(address, pid, 20_000_000, 4)
            note("most memory, 8 mails of 20 MB at once", f"{memory(pid, 'VmHWM'):.0f} MiB")
            busy = Mta(address, protocol=ANSWERED).greet()
            busy.begin(HEADERS)
            note("SIGTERM to exit, a message half way that goes no further", f"{stop(pid):.2f} s")
        with scripted(host) as hosted, hosted.mta() as mta:
            answer = mta.greet().message([(b"X-Case", b" 8bit")])
            said = "written as they are" if answer.edits else answer.reply.text[:9].decode()
            note("header edit with octets that are not UTF-8", said)
            answer = mta.message([(b"X-Case", b" utf8")])
            note("header edit in UTF-8", "written as it is" if answer.edits else "refused")
    print("\n| | libmilter | native |\n|---|---|---|")
    for label, values in rows.items():
        print(f"| {label} | {' | '.join(values)} |")


def stop(pid: int) -> float:
    """Seconds from SIGTERM to the end of a filter's process."""
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.005)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each cell")
    seconds = parser.parse_args().seconds
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors\n")
    throughput(seconds)
    others()


if __name__ == "__main__":
    main()
