"""Room for connections: the limit, what waits beyond it, open files, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from milterd.base import logs, openfiles, row, toml_file
from milterd.check import examine
from milterd.config import MilterdConfig
from milterd.wire.mta import MtaConnection
from smtpgw.config import Smtpgw
from tests.bench import memory
from tests.host.conftest import until
from tests.host.mta import Mta
from tests.host.test_daemon import AGENT, Milterd, children, milterd

__all__ = ["milterd"]

FEW_FILES = 256
CROWD = 600
EACH = 16
"""KB of memory that an idle connection may take; docs/hosts.md says what it does take."""

GATEWAY = """
[[smtpgw.milter]]
name = "headers"
address = "unix:{home}/headers.sock"
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:25"
[[smtpgw.listener]]
name = "submission"
address = "127.0.0.1:587"
"""


def knocking(path: str) -> socket.socket:
    """A connection that has begun to negotiate, and does not wait for an answer."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(30)
    one.connect(path)
    one.sendall(MtaConnection().negotiate())
    return one


def limited(soft: int, hard: int) -> Callable[[], None]:
    """For a process that is to have so many open files."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def warnings(file: Path) -> list[str]:
    found = examine(file, offline=True)
    return [each.problem for each in found if each.level == "warning"]


def test_beyond_the_limit_a_connection_waits_and_is_served_when_another_has_gone(
    milterd: Milterd,
) -> None:
    milterd.write(milterd="connections = 2")
    milterd.start().ready()
    assert not milterd.log("connections full")
    with milterd.mta() as first, milterd.mta() as second, knocking(milterd.path) as third:
        for _ in range(2):  # the loop has been there, and back
            assert first.message(AGENT).edits
            assert second.message(AGENT).edits
        assert not select.select([third], [], [], 0)[0]
        first.close()
        assert third.recv(5)[4:] == b"O"
    lines = until(lambda: milterd.log("connections full"))
    assert {(each["filter"], each["connections"]) for each in lines} == {("headers", 2)}


@pytest.mark.parametrize("milterd", ["libmilter", "native"], indirect=True)
def test_a_process_raises_its_limit_of_open_files_for_its_connections(milterd: Milterd) -> None:
    """Where the limit that the service manager gives is lower than its hard limit."""
    milterd.write(milterd=f"connections = {CROWD}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    milterd.start(preexec_fn=limited(FEW_FILES, hard)).ready()
    (pid,) = children(milterd.pid)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == 2 * CROWD + 512
    assert not milterd.log("settings warning")
    with contextlib.ExitStack() as crowd:
        before = memory.of(pid).rss
        for _ in range(CROWD - 1):
            crowd.enter_context(Mta(milterd.path))
        assert milterd.works()
        assert (memory.of(pid).rss - before) * 1000 < EACH * CROWD


def test_a_hard_limit_that_is_too_low_is_told_with_place_and_cure(milterd: Milterd) -> None:
    milterd.write(milterd=f"connections = {CROWD}")
    milterd.start(preexec_fn=limited(FEW_FILES, FEW_FILES)).ready()
    (line,) = milterd.log("settings warning")
    where = f"{milterd.config}:9: milterd.connections: found {CROWD}, which take up to 1712 "
    assert line["reason"].startswith(where)
    assert f"the hard limit is {FEW_FILES} open files" in line["reason"]
    assert "LimitNOFILE=" in line["reason"]
    (pid,) = children(milterd.pid)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == FEW_FILES
    assert milterd.works()


def test_a_thousand_connect_at_once(milterd: Milterd) -> None:
    """And nobody accepts yet."""
    with contextlib.ExitStack() as crowd:
        ours = resource.getrlimit(resource.RLIMIT_NOFILE)
        crowd.callback(resource.setrlimit, resource.RLIMIT_NOFILE, ours)
        openfiles.raise_to(4096, logs.get("test"))
        milterd.start().ready()
        (pid,) = children(milterd.pid)
        os.kill(pid, signal.SIGSTOP)
        crowd.callback(os.kill, pid, signal.SIGCONT)
        for _ in range(1000):
            one = crowd.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            assert one.connect_ex(milterd.path) == 0


@pytest.mark.parametrize(
    ("gateway", "filter_", "wanted"),
    [
        ("", "", 0),
        ("workers = 3", "", 6000),
        ("workers = 3", "processes = 2", 0),
        ("default_process_limit = 5000", "", 10_000),
    ],
)
def test_check_compares_with_what_the_gateway_may_ask_for(
    milterd: Milterd, gateway: str, filter_: str, wanted: int
) -> None:
    tables = f"[smtpgw]\n{gateway}\n{GATEWAY.format(home=milterd.directory)}"
    milterd.write(filter_, more=tables)
    found = warnings(milterd.config)
    assert len(found) == bool(wanted)
    for each in found:
        assert each.startswith(f"{milterd.config}: milterd.connections: found 4000 for each of ")
        assert f"expected {wanted} together" in each


def test_by_default_there_is_room_for_two_workers_with_two_listeners(milterd: Milterd) -> None:
    milterd.write(more=f"[smtpgw]\nworkers = 2\n{GATEWAY.format(home=milterd.directory)}")
    assert warnings(milterd.config) == []


def test_the_gateways_defaults_are_what_it_is_taken_to_have() -> None:
    defaults = Smtpgw.model_construct()
    assert (defaults.workers, defaults.default_process_limit) == (row.WORKERS, row.CLIENTS)
    assert MilterdConfig().milterd.connections >= 4 * row.CLIENTS


def test_each_table_of_a_filter_has_a_connection_and_only_of_its_listeners() -> None:
    milters = "".join(
        f'[[smtpgw.milter]]\nname = "{name}"\naddress = "unix:/m/dkim.sock"\n{more}\n'
        for name, more in (("first", ""), ("last", 'listeners = ["mx"]'))
    )
    listeners = "".join(f'[[smtpgw.listener]]\nname = "{each}"\n' for each in ("mx", "submission"))
    text = f'[milterd]\nsocket_directory = "/m"\n[filter.dkim]\n{milters}{listeners}'
    assert row.sessions(toml_file.tables(text)) == {"dkim": 3000}
