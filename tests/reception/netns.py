"""A network namespace of a test's own: any addresses, a name server of its own, nobody else.

All addresses are on its loopback, so a client binds the one that it comes from; sockets are made
by a thread that has entered the namespace, and are used by anybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.dns import DnsServer, Zone
from tests.peers.process import program

_NETNS = 0x40000000


@dataclass(frozen=True)
class Namespace:
    """`prefix` before a command runs it inside."""

    name: str
    inside: ThreadPoolExecutor

    @property
    def prefix(self) -> list[str]:
        return [program("ip", "iproute2"), "netns", "exec", self.name]

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket that belongs to it."""
        return self.inside.submit(socket.socket, family, kind).result()

    def connect(self, source: str, server: tuple[str, int], timeout: float) -> socket.socket:
        """A connection of a client with this address."""
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        made = self.socket(family, socket.SOCK_STREAM)
        made.settimeout(timeout)
        try:
            made.bind((source, 0))
            made.connect(server)
        except BaseException:
            made.close()
            raise
        return made


@contextmanager
def namespace(name: str, addresses: Sequence[str]) -> Iterator[Namespace]:
    """Make one that has these addresses, and remove it."""
    if os.geteuid():
        raise PermissionError("network namespaces are made by root: use `make test`")
    name = f"{name}-{os.getpid()}"  # tests of another checkout may run here too
    settings = Path("/etc/netns") / name
    ip = program("ip", "iproute2")

    def run(*words: str, text: str = "") -> None:
        subprocess.run([ip, *words], check=True, input=text, text=True, timeout=30)

    run("netns", "add", name)
    settings.mkdir(parents=True)
    # One try of two seconds: what never answers shall not hold a test up for long.
    (settings / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    inside = ThreadPoolExecutor(1, initializer=_enter, initargs=(name,))
    try:
        lines = [
            f"address add {each}/{'128 nodad' if ':' in each else 32} dev lo" for each in addresses
        ]
        run("-n", name, "-batch", "-", text="\n".join(["link set lo up", *lines]) + "\n")
        yield Namespace(name, inside)
    finally:
        inside.shutdown()
        run("netns", "delete", name)
        shutil.rmtree(settings)
        with contextlib.suppress(OSError):  # others have theirs there
            settings.parent.rmdir()


def _enter(name: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", name).open() as file:
        if library.setns(file.fileno(), _NETNS):
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")


@contextmanager
def name_server(place: Namespace, zone: Zone, faults: Mapping[str, str]) -> Iterator[DnsServer]:
    """Serve a zone on port 53 of its loopback, by UDP and by TCP."""
    server = DnsServer(53, dict(zone), dict(faults))
    server.gate.set()
    datagrams = place.socket(socket.AF_INET, socket.SOCK_DGRAM)
    streams = place.socket(socket.AF_INET, socket.SOCK_STREAM)
    datagrams.bind(("127.0.0.1", 53))
    streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    streams.bind(("127.0.0.1", 53))
    streams.listen(50)
    over = threading.Event()

    def by_udp() -> None:
        while True:
            octets, asker = datagrams.recvfrom(4096)
            if over.is_set():
                return
            for each in server.replies(octets, tcp=False):
                datagrams.sendto(each, asker)

    def by_tcp() -> None:
        while True:
            connection, _peer = streams.accept()
            with connection:
                if over.is_set():
                    return
                connection.settimeout(5)
                _stream(server, connection)

    threads = [threading.Thread(target=each, daemon=True) for each in (by_udp, by_tcp)]
    for each in threads:
        each.start()
    try:
        yield server
    finally:
        over.set()
        with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", 53))
        place.connect("127.0.0.1", ("127.0.0.1", 53), 5).close()
        for each in threads:
            each.join(10)
        datagrams.close()
        streams.close()


def _stream(server: DnsServer, connection: socket.socket) -> None:
    try:
        with connection.makefile("rb") as file:
            while len(size := file.read(2)) == 2:
                for each in server.replies(file.read(int.from_bytes(size, "big")), tcp=True):
                    connection.sendall(len(each).to_bytes(2, "big") + each)
    except OSError:
        return  # who asked has gone
