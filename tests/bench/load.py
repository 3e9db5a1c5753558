"""The generators: several smtp-source(1) at once, or clients of our own where TLS is wanted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.bench.case import Case
from tests.peers.process import Peer, program

SOURCES = 10
"""Generators at once, at most, each with a body of its own."""
CLIENTS = 2
"""Processes of our own clients."""
_COUNT = re.compile(rb"mesg=(\d+)")
_WAIT = 600.0


def taken(peer: Peer) -> int:
    """How many mails the sink has counted."""
    counts = _COUNT.findall(peer.log.read_bytes()[-200:])
    return int(counts[-1]) if counts else 0


def mails_of(case: Case) -> int:
    """How many mails a generator's share times the generators comes to."""
    count = _generators(case)
    return case.mails // count * count


def _generators(case: Case) -> int:
    return min(CLIENTS if case.tls else SOURCES, case.connections)


def send(case: Case, port: int, home: Path) -> None:
    """All mails of the case, whose bodies are written in `home`; returns with the last 250."""
    start = _client if case.tls else _source
    started = [start(case, port, home, number) for number in range(_generators(case))]
    for each in started:
        if each.wait(_WAIT):
            raise RuntimeError(f"{case}: a generator failed")


def _source(case: Case, port: int, home: Path, number: int) -> subprocess.Popen[bytes]:
    """smtp-source: it gives each mail a Message-ID of its own, and all of them this body."""
    count, body = _generators(case), home / f"body{number}"
    line = os.urandom(35).hex().encode() + b"\n"
    text = b"".join(b"%d %b" % (at, line) for at in range(case.size // 75 + 1))[: case.size]
    head = b"From: <a@example.net>\nTo: <u@example.net>\nSubject: %d\n\n" % number
    body.write_bytes(head + text)
    command = [program("smtp-source", "postfix"), "-s", str(case.connections // count)]
    command += ["-m", str(case.mails // count), "-F", str(body)]
    command += ["-d"] if case.kept else []
    command += ["-f", "a@example.net", "-t", "u@example.net", f"127.0.0.1:{port}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _client(case: Case, port: int, _home: Path, _number: int) -> subprocess.Popen[bytes]:
    count = _generators(case)
    words = [port, case.connections // count, case.mails // count, case.size]
    command = [sys.executable, "-m", "tests.bench.clients", *map(str, words)]
    return subprocess.Popen([*command, *["kept"] * case.kept, *["tls"] * case.tls])
