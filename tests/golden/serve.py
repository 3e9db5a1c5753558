"""One filter in one host, as a process: serve.py KIND FILTER FD CLAMD KEY."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from milterd.base import logs
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.host.seam import HostKind, create
from tests.golden.filters import build


def main() -> None:
    kind, name, number, clamd, key = sys.argv[1:6]
    logs.setup("json", "warning")
    around = Surroundings(logs.get("host"), lambda: "trace")
    judge = Judge(build(name, clamd, Path(key)), Options(), around)
    host = create(HostKind(kind), judge, socket.socket(fileno=int(number)), around)
    signal.signal(signal.SIGTERM, lambda *_: host.stop(1.0))
    host.serve()
    logs.flush()
    os._exit(0)


main()
