"""One host with one scripted filter, as a process: serve.py KIND FILTER FD [OPTIONS-JSON]."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from milterd.base import logs
from milterd.core.mail import Direction
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Fault, OnFailure, Options, Oversize
from milterd.host.seam import HostKind, create
from tests.host.scripted import FILTERS


def options(given: dict[str, Any]) -> Options:
    found = replace(Options(), trusted_networks=(ip_network("127.0.0.0/8"), ip_network("::1")),
                    daemon_names=frozenset({b"ORIGINATING"}))  # fmt: skip
    if "oversize" in given:
        given["oversize"] = Oversize(given["oversize"])
    if "spool_directory" in given:
        given["spool_directory"] = Path(given["spool_directory"])
    faults = {}
    for key, action in given.pop("faults", {}).items():
        fault, _, direction = key.partition("/")
        faults[Fault(fault), Direction(direction)] = OnFailure(action)
    return replace(found, faults=faults, **given)


def main() -> None:
    kind, name, number = HostKind(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    logs.setup("json", "info")
    counter = itertools.count(1)
    around = Surroundings(logs.get("host"), lambda: f"trace{next(counter)}")
    given = json.loads(sys.argv[4])
    grace = given.pop("grace", 1.0)
    judge = Judge(FILTERS[name](), options(given), around)
    host = create(kind, judge, socket.socket(fileno=number), around)
    signal.signal(signal.SIGTERM, lambda *_: host.stop(grace))
    signal.signal(signal.SIGUSR1, lambda *_: host.stop(5.0, sessions=True))
    host.serve()
    logs.flush()
    os._exit(0)


main()
