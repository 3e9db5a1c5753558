"""The same clients before Debian's postscreen and before ours, with the same settings.

Each case has a port of its own at both, and an address of its own as a client: in Postfix a
postscreen with -o in master.cf, with us a listener.  Postfix runs in a mount namespace of its
own, where resolv.conf names the test's name server.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.gateway.gateway import Gateway
from tests.peers import postfix as private
from tests.peers.dns import DnsServer, dns_server
from tests.peers.process import Peer, answers, directory, free_port, program, running, wait_for

Value = bool | int | str | list[str]
Settings = Mapping[str, Value]

PATIENCE = 20.0
RESOLVER = f"127.53.{os.getpid() % 250}.{os.getpid() // 250 % 250 + 1}"
"""Port 53 of an address that no other process of the suite has."""
TOGETHER = 12
"""Clients at once, of each side."""

_BLOCKED = re.compile(rb"blocked using (\S+)")
_REPLY = re.compile(rb"(\d{3})([ -])(?:([245]\.\d{1,3}\.\d{1,3}) )?")


@dataclass(frozen=True)
class Case:
    """Settings, and what a client does.  `steps`: octets to send, each after the reply to those
    before; None waits for a reply without sending.  `early` is sent before the banner;
    `visits`, how often the client comes, `pause` seconds apart."""

    settings: Settings
    steps: tuple[bytes | None, ...] = (
        b"EHLO client.example\r\n", b"MAIL FROM:<a@example.org>\r\n",
        b"RCPT TO:<u@example.net>\r\n", b"QUIT\r\n",
    )  # fmt: skip
    early: bytes = b""
    visits: int = 1
    pause: float = 0.0
    address: str = ""


@dataclass
class Seen:
    """What one side has said: for each visit the codes of its replies, at the end `closed` or
    `open`."""

    visits: list[list[str]] = field(default_factory=list)


def talk(port: int, case: Case) -> Seen:
    """Be this client."""
    seen = Seen()
    for visit in range(case.visits):
        if visit:
            time.sleep(case.pause)
        seen.visits.append(_visit(port, case))
    return seen


def _visit(port: int, case: Case) -> list[str]:
    codes: list[str] = []
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(case.address, 0))
    ) as client:
        client.settimeout(PATIENCE)
        reader = client.makefile("rb")
        try:
            if case.early:
                client.sendall(case.early)
            codes.append(_reply(reader))
            for each in case.steps:
                if codes[-1] == "closed":
                    break
                if each is not None:
                    client.sendall(each)
                codes.append(_reply(reader))
        except ConnectionError:
            codes.append("closed")
        except TimeoutError:
            codes.append("silence")
    return codes


def _reply(reader: IO[bytes]) -> str:
    """Code and enhanced code of the next reply, and the list by which a client is blocked."""
    while True:
        line = reader.readline()
        match = _REPLY.match(line)
        if match is None:
            return "closed"
        if match[2] == b" ":
            words = [match[1], match[3], *_BLOCKED.findall(line)]
            return b" ".join(each for each in words if each).decode()


@dataclass(frozen=True)
class Sides:
    """Both of them, with a port for each case."""

    postfix: list[int]
    gateway: list[int]
    log: Peer
    ours: Gateway
    dns: DnsServer

    def seen(self, cases: Sequence[Case]) -> tuple[list[Seen], list[Seen]]:
        """What Postfix says to all of them, and what we do."""
        with ThreadPoolExecutor(TOGETHER) as one, ThreadPoolExecutor(TOGETHER) as other:
            theirs = one.map(talk, self.postfix, cases)
            ours = other.map(talk, self.gateway, cases)
            return list(theirs), list(ours)

    def differences(self, cases: Sequence[Case]) -> list[tuple[int, Seen, Seen]]:
        """The cases in which they do not agree."""
        theirs, ours = self.seen(cases)
        pairs = zip(theirs, ours, strict=True)
        return [(at, left, right) for at, (left, right) in enumerate(pairs) if left != right]


@contextlib.contextmanager
def sides(cases: Sequence[Case], zone: Mapping[str, Mapping[str, list[str]]]) -> Iterator[Sides]:
    """Both, running."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(directory("screen"))
        dns = stack.enter_context(dns_server(zone, RESOLVER, 53))
        ports, peer = stack.enter_context(_postscreens(home / "postfix", cases))
        gateway = Gateway(_made(home / "gateway"))
        ours = _configure(gateway, cases)
        stack.callback(gateway.kill)
        gateway.start()
        yield Sides(ports, ours, peer, gateway, dns)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


COMMON: Settings = {"postscreen_greet_wait": "1s"}
_MAIN = {
    "mynetworks": "127.0.0.1/32",
    "mydestination": "example.net",
    "smtpd_recipient_restrictions": "",
    "smtpd_forbid_bare_newline": "no",
    "smtpd_forbid_unauth_pipelining": "no",
    "disable_dns_lookups": "no",
    "smtputf8_enable": "yes",
}


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


@contextlib.contextmanager
def _postscreens(home: Path, cases: Sequence[Case]) -> Iterator[tuple[list[int], Peer]]:
    home.mkdir()
    home.chmod(0o755)
    ready, *ports = [free_port() for _ in range(len(cases) + 1)]
    config = private.lay_out(home)
    (config / "main.cf").write_text(private._main_cf(home, _MAIN))
    private.age(config / "main.cf")
    (config / "master.cf").write_text(_master_cf(ready, ports, cases))
    resolv = home / "resolv.conf"
    resolv.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:2\n")
    start = program("postfix", "postfix")
    peer = Peer("postfix", home / "maillog")
    running.append(peer)
    script = 'mount --bind "$1" /etc/resolv.conf && exec "$2" -c "$3" start'
    try:
        with (home / "said").open("w") as said:
            subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", resolv, start, config],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=True,
            )  # fmt: skip
        wait_for(lambda: answers(ready, b"220 "), "postfix answers")
        yield ports, peer
    finally:
        running.remove(peer)
        private._run(start, config, "abort")
        wait_for(lambda: not answers(ready), "postfix ends")


def _master_cf(ready: int, ports: Sequence[int], cases: Sequence[Case]) -> str:
    """`ready` is the port of an smtpd without a postscreen before it, which greets everybody: a
    case may be about clients that are never greeted."""
    lines = [
        f"127.0.0.1:{ready} inet n - n - - smtpd",
        "pickup unix n - n 60 1 pickup", "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr", "tlsmgr unix - - n 1000? 1 tlsmgr",
        "rewrite unix - - n - - trivial-rewrite", "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce", "error unix - - n - - error",
        "discard unix - - n - - discard", "anvil unix - - n - 1 anvil",
        "verify unix - - n - 1 verify", "proxymap unix - - n - - proxymap",
        "scache unix - - n - 1 scache", "postlog unix-dgram n - n - 1 postlogd",
        "smtpd pass - - n - - smtpd", "dnsblog unix - - n - 0 dnsblog",
    ]  # fmt: skip
    for at, (port, case) in enumerate(zip(ports, cases, strict=True)):
        lines.append(f"127.0.0.1:{port} inet n - n - 1 postscreen")
        told = {
            **COMMON,
            "postscreen_cache_map": f"btree:$data_directory/cache{at}",
            **case.settings,
        }
        told.pop("postscreen_deep_defer", None)
        lines += [f"  -o {{ {key} = {_written(value)} }}" for key, value in told.items()]
    return "\n".join(lines) + "\n"


def _configure(gateway: Gateway, cases: Sequence[Case]) -> list[int]:
    """Write its settings: a listener for each case."""
    ports = [free_port() for _ in cases]
    listeners = ""
    for at, (port, case) in enumerate(zip(ports, cases, strict=True)):
        told = {**COMMON, "postscreen_deep_defer": True, **case.settings}
        listeners += f'\n[[smtpgw.listener]]\nname = "case{at}"\naddress = "127.0.0.1:{port}"\n'
        listeners += "postscreen_enable = true\n"
        listeners += "".join(f"{key} = {_toml(value)}\n" for key, value in told.items())
    gateway.configure(
        top='mynetworks = ["127.0.0.1/32"]\nsmtpd_peername_lookup = false\n'
        "default_process_limit = 500\n",
        tables=f'[smtpgw.dns]\nnameservers = ["{RESOLVER}"]\ntry_timeout = 1\n'
        f"min_ttl = 0\nmax_ttl = 0\n{listeners}",
    )
    return ports


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f"'{value}'"
    return "[" + ", ".join(f"'{each}'" for each in value) + "]"
