"""One filter's process: it gets a listening socket and its settings, and serves.

Nothing is read from the settings file here, so a process that is started again after a
crash works by the settings that are in force, whatever the file has become.  SIGTERM
ends it within :data:`GRACE`, messages in progress included; SIGUSR1 retires it: no new
connections, and those it has may go on for :data:`RETIREMENT`.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from milterd.base import collector, logs, metrics, openfiles, supervise
from milterd.check import build
from milterd.config import MilterdConfig
from milterd.filters.setup import SetupError
from milterd.host.judge import Judge, Surroundings
from milterd.host.seam import create

GRACE = 1.5
"""Seconds for messages in progress when milterd stops."""

RETIREMENT = 300.0
"""Seconds for open connections when other settings take over."""

CONFIG_ERROR = 78
"""EX_CONFIG of sysexits(3)."""

_LIMIT = 16 * 2**20


class PrometheusMeter:
    """Counts in the numbers that the supervisor serves."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seconds = metrics.filter_seconds(name)

    def decided(self, outcome: str, seconds: float) -> None:
        self._seconds.observe(seconds)
        metrics.mails("milterd", self._name, outcome).inc()

    def failed(self, kind: str) -> None:
        metrics.FILTER_FAILURES.labels(self._name, kind).inc()


def main(words: Sequence[str]) -> NoReturn:
    """Serve a filter; the words are its name, the descriptor of its listening socket, and that
    of its settings."""
    name, listener, orders = words[0], int(words[1]), int(words[2])
    config = MilterdConfig.model_validate_json(os.pread(orders, _LIMIT, 0), strict=True)
    os.close(orders)
    logs.setup(config.log.format, config.log.level, daemon="milterd")
    log = logs.get("filter").bind()  # now: otherwise each line looks at the settings anew
    try:
        built = build(config, name)
    except SetupError as error:
        for problem in error.problems:
            log.error("filter not started", filter=name, reason=problem)  # noqa: TRY400  # no trace
        logs.flush()
        os._exit(CONFIG_ERROR)
    options = config.host_options(name)
    openfiles.raise_to(config.open_files, log)
    # What was only thought of is not counted with what was done.
    counted = f"shadow:{name}" if options.shadow else name
    around = Surroundings(log, lambda: secrets.token_hex(5), PrometheusMeter(counted))
    judge = Judge(built, options, around)
    kind = config.filter.present()[name].host
    host = create(kind, judge, socket.socket(fileno=listener), around)
    signal.signal(signal.SIGTERM, lambda *_: host.stop(GRACE))
    signal.signal(signal.SIGUSR1, lambda *_: host.stop(RETIREMENT, sessions=True))
    for ignored in (signal.SIGINT, signal.SIGHUP):  # the supervisor's affair
        signal.signal(ignored, signal.SIG_IGN)
    parent = supervise.parent_fd()
    if parent is not None:
        supervise.watch_parent(parent, lambda: host.stop(GRACE))
    collector.settle()
    log.info("serving", filter=name, host=kind.value, mode=config.filter.present()[name].mode)
    try:
        host.serve()
    except Exception as error:  # the log has it, and the supervisor starts another
        log.critical("host failed", filter=name, host=kind.value, exc_info=error)
        metrics.flush()
        logs.flush()
        os._exit(1)
    metrics.flush()
    logs.flush()
    # libmilter's threads cannot be ended, and a filter's may still wait for a peer.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
