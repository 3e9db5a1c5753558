"""Debian's clamav-milter in front of a clamd, as a milter of somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milterd.core.decision import Verdict
from milterd.lab.client import play
from milterd.lab.conform.samples import plain
from tests.peers.clamd import Clamd
from tests.peers.milter import Milter, Program
from tests.peers.process import program, wait_for


def prepare(home: Path, clamd: Clamd, **settings: str) -> Program:
    """clamav-milter with its files in `home`; infected mail is rejected unless `settings`
    (clamav-milter.conf(5)) say otherwise."""
    socket = home / "clamav-milter.sock"
    lines = {
        "MilterSocket": str(socket),
        "MilterSocketMode": "666",
        "ClamdSocket": f"unix:{clamd.socket}",
        "TemporaryDirectory": str(home),
        "Foreground": "yes",
        "OnInfected": "Reject",
        "OnFail": "Defer",
        "RejectMsg": "infected: %v",
        "AddHeader": "Replace",
        "LogInfected": "Basic",
        "LogTime": "yes",
        **settings,
    }
    config = home / "clamav-milter.conf"
    config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    command = [program("clamav-milter", "clamav-milter"), f"--config-file={config}"]
    return Program("clamav-milter", home, socket, command)


@contextmanager
def clamav_milter(home: Path, clamd: Clamd, **settings: str) -> Iterator[Milter]:
    """Run what `prepare` makes, until it judges: before it has found its scanner, it answers
    and defers."""
    with prepare(home, clamd, **settings).run() as peer:
        wait_for(lambda: _judges(peer), "clamav-milter judges a mail")
        yield peer


def _judges(milter: Milter) -> bool:
    return asyncio.run(play(milter.address, plain())).verdict is not Verdict.TEMPFAIL
