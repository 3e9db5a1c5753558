"""milterd as a whole: sockets, processes, signals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milterd.config import load
from milterd.core.actions import ChangeHeader
from milterd.daemon import Daemon, StartError
from milterd.wire import messages as m
from tests.host.conftest import ROOT, until
from tests.host.mta import ANSWERED, Mta
from tests.steady import Running

AGENT = [(b"User-Agent", b" Mutt"), (b"Subject", b" x")]
ORIGINATING = ((b"j", b"mx.example"), (b"{daemon_name}", b"ORIGINATING"))


def children(pid: int) -> list[int]:
    """The filters' processes: the nursery's children."""
    return [one for nursery in _children(pid) for one in _children(nursery)]


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


class Milterd:
    """A running milterd with the headers filter, and its files."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory, self.kind = directory, kind
        self.config = directory / "gatepost.toml"
        self.path = str(directory / "headers.sock")
        self.log_path = directory / "log"
        self.environ: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.write()

    def write(self, filter_keys: str = "", milterd: str = "", more: str = "") -> None:
        self.config.write_text(f"""
[log]
format = "json"
[metrics]
milterd = "unix:{self.directory}/metrics.sock"
[milterd]
socket_directory = "{self.directory}"
socket_group = ""
{milterd}
[filter.headers]
host = "{self.kind}"
authserv_id = "mx.example.net"
{filter_keys}
{more}
""")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "milterd", *words, "--config", str(self.config)]

    def start(self, **more: Any) -> Milterd:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run"), cwd=ROOT, stderr=log, env={**os.environ, **self.environ},
                **more,
            )  # fmt: skip
        return self

    def ready(self, count: int = 1) -> Milterd:
        until(lambda: self.running() and len(self.log("serving")) >= count, 40)
        return self

    def running(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_path.read_text()
        return True

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        assert self.process is not None
        with Running() as clock:
            began = clock()
            self.process.send_signal(number)
            status = self.process.wait(60)
            return status, clock() - began

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = [each for each in self.log_path.read_text().splitlines() if each.startswith("{")]
        return [each for each in map(json.loads, lines) if each["event"] == event]

    def mta(self, **more: Any) -> Mta:
        return Mta(self.path, **more).greet(macros=ORIGINATING)

    def works(self) -> bool:
        with self.mta() as mta:
            return mta.message(AGENT).edits == (ChangeHeader(b"User-Agent", 1, b""),)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()


@pytest.fixture
def milterd(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Milterd]:
    """A milterd of its own for the test; with both hosts where the test says so."""
    made = Milterd(short_path, getattr(request, "param", "native"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Milterd]:
    """One milterd for the tests that leave it as it was."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="gph-"))
    made = Milterd(directory, "libmilter")
    made.write("processes = 2")
    made.start().ready(2)
    yield made
    made.close()
    shutil.rmtree(directory)


both_hosts = pytest.mark.parametrize("milterd", ["libmilter", "native"], indirect=True)


@both_hosts
def test_it_runs_and_stops_in_time_and_leaves_nothing(milterd: Milterd) -> None:
    milterd.start().ready()
    assert stat.S_IMODE(Path(milterd.path).stat().st_mode) == 0o660
    idle, busy = milterd.mta(), milterd.mta(protocol=ANSWERED)
    busy.begin(AGENT)
    pids = [*children(milterd.pid), milterd.pid]
    status, seconds = milterd.stop()
    assert status == 0
    assert seconds < 4.5, "libmilter by itself takes five"
    assert not any(Path(f"/proc/{each}").exists() for each in pids)
    assert not list(milterd.directory.glob("*.sock"))
    idle.close()
    busy.close()


@both_hosts
def test_a_message_in_progress_is_finished_before_the_end(milterd: Milterd) -> None:
    milterd.start().ready()
    with milterd.mta(protocol=ANSWERED) as mta:
        mta.begin(AGENT)
        milterd.send(signal.SIGTERM)
        until(lambda: milterd.log("stopping"))
        assert mta.end().edits == (ChangeHeader(b"User-Agent", 1, b""),)
    assert milterd.process is not None
    assert milterd.process.wait(30) == 0


def test_a_killed_process_is_replaced_and_the_socket_stays(milterd: Milterd) -> None:
    milterd.start().ready()
    inode = Path(milterd.path).stat().st_ino
    with milterd.mta() as mta:
        mta.begin(AGENT)
        (child,) = children(milterd.pid)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            mta.end()
    assert milterd.works()  # the next connection waits in the backlog
    assert Path(milterd.path).stat().st_ino == inode
    assert children(milterd.pid) != [child]
    assert milterd.log("child ended")[0]["status"] == "SIGKILL"


def test_several_processes_share_one_socket(milterd: Milterd) -> None:
    milterd.write("processes = 3")
    milterd.start().ready(3)
    assert len(children(milterd.pid)) == 3
    assert all(milterd.works() for _ in range(5))


def test_children_end_with_a_killed_supervisor_and_its_socket_is_taken_over(
    milterd: Milterd,
) -> None:
    milterd.start().ready()
    (child,) = children(milterd.pid)
    assert milterd.process is not None
    milterd.process.kill()
    milterd.process.wait(30)
    until(lambda: not Path(f"/proc/{child}").exists())
    assert Path(milterd.path).exists()  # a stale one
    milterd.start().ready(2)
    assert milterd.works()


def refused(milterd: Milterd) -> str:
    """Why a milterd does not start with these settings."""
    with pytest.raises(StartError) as caught:
        asyncio.run(Daemon(milterd.config, load(milterd.config)).run())
    return str(caught.value)


def test_a_live_socket_is_left_alone(milterd: Milterd) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(milterd.path)
        other.listen()
        assert "another process is listening" in refused(milterd)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(milterd.path)


def test_a_symlink_and_a_file_are_left_alone(milterd: Milterd) -> None:
    target = milterd.directory / "target"
    target.write_text("precious")
    Path(milterd.path).symlink_to(target)
    assert "symbolic link" in refused(milterd)
    Path(milterd.path).unlink()
    Path(milterd.path).write_text("precious")
    assert "not a socket" in refused(milterd)
    assert target.read_text() == Path(milterd.path).read_text() == "precious"


def test_listen_fds(milterd: Milterd) -> None:
    """systemd's socket is used by its name, and not removed."""
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(milterd.path)
        given.listen()

        def hand_over() -> None:
            os.dup2(given.fileno(), 3)
            os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="milterd-headers.socket")
            os.environ["LISTEN_PID"] = str(os.getpid())
            os.execve(sys.executable, milterd.command("run"), os.environ)

        milterd.start(preexec_fn=hand_over, close_fds=False)
        milterd.ready()
        assert milterd.works()
        milterd.stop()
        assert Path(milterd.path).exists()


@both_hosts
def test_good_settings_are_taken_without_losing_a_connection(milterd: Milterd) -> None:
    milterd.start().ready()
    before = children(milterd.pid)
    inode = Path(milterd.path).stat().st_ino
    open_session = milterd.mta(protocol=ANSWERED)
    open_session.begin(AGENT)
    milterd.write('rules = ["inbound-hygiene"]')
    milterd.send(signal.SIGHUP)
    until(lambda: milterd.log("settings taken"))
    assert open_session.end().edits  # by the rules it began with
    assert open_session.message(AGENT).edits
    until(lambda: len(milterd.log("serving")) == 2)
    with milterd.mta() as mta:  # by the new ones
        assert mta.message(AGENT).edits == ()
    open_session.close()
    until(lambda: not set(before) & set(children(milterd.pid)))
    assert Path(milterd.path).stat().st_ino == inode
    assert milterd.stop()[1] < 4.5


def test_bad_settings_change_nothing(milterd: Milterd) -> None:
    milterd.start().ready()
    before = children(milterd.pid)
    milterd.write('rules = ["no-such-rules"]\nhots = "native"')
    done = subprocess.run(milterd.command("check"), cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 78
    milterd.send(signal.SIGHUP)
    (line,) = until(lambda: milterd.log("settings not taken, the old ones stay"))
    assert "did you mean 'host'" in line["reason"]
    milterd.write('rules = ["no-such-rules"]')
    milterd.send(signal.SIGHUP)
    until(lambda: len(milterd.log("settings not taken, the old ones stay")) == 2)
    assert children(milterd.pid) == before
    os.kill(before[0], signal.SIGKILL)  # and a restart takes the old ones too
    assert milterd.works()


def test_a_filter_comes_and_goes_with_the_settings(milterd: Milterd) -> None:
    milterd.start().ready()
    milterd.write(more="[filter.dkim]")
    milterd.send(signal.SIGHUP)
    until(lambda: len(milterd.log("settings taken")) == 1)
    assert (milterd.directory / "dkim.sock").is_socket()
    milterd.write()
    milterd.send(signal.SIGHUP)
    until(lambda: len(milterd.log("settings taken")) == 2)
    assert not (milterd.directory / "dkim.sock").exists()
    assert milterd.works()


def test_settings_whose_sockets_are_taken_leave_nothing_behind(milterd: Milterd) -> None:
    milterd.start().ready()
    metrics = milterd.directory / "metrics.sock"
    good = milterd.config.read_text()
    more = f'[filter.dkim]\nsocket = "unix:{milterd.directory}/dkim.sock"\nverify = true\n'
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        milterd.config.write_text(good.replace(f"unix:{metrics}", taken) + more)
        milterd.send(signal.SIGHUP)
        (line,) = until(lambda: milterd.log("settings not taken, the old ones stay"))
    assert "metrics.milterd" in line["reason"]
    assert not (milterd.directory / "dkim.sock").exists()
    with socket.socket(socket.AF_UNIX) as client:  # the numbers are where they were
        client.connect(str(metrics))
    milterd.config.write_text(good + more)
    milterd.send(signal.SIGHUP)
    until(lambda: milterd.log("settings taken") or len(milterd.log(line["event"])) > 1)
    assert len(milterd.log(line["event"])) == 1


def test_it_tells_the_service_manager(milterd: Milterd) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(milterd.directory / "notify"))
        manager.settimeout(10)
        milterd.environ["NOTIFY_SOCKET"] = str(milterd.directory / "notify")
        milterd.start().ready()
        assert manager.recv(1000).startswith(b"READY=1")
        milterd.send(signal.SIGHUP)
        assert manager.recv(1000).startswith(b"RELOADING=1")
        assert manager.recv(1000) == b"READY=1"
        assert milterd.stop(signal.SIGINT)[1] < 1.5  # nothing is in progress
        assert manager.recv(1000) == b"STOPPING=1"


def test_metrics_are_summed_over_processes(shared: Milterd) -> None:
    def count(what: str) -> float:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(shared.directory / "metrics.sock"))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        return sum(float(each.split()[1]) for each in text.splitlines() if each.startswith(what))

    edited = 'gatepost_mails_total{daemon="milterd",listener="headers",outcome="edit"}'
    timed = 'gatepost_filter_seconds_count{filter="headers"}'
    before = count(edited), count(timed)
    for _ in range(6):
        assert shared.works()
    with shared.mta() as mta:
        mta.message([(b"Subject", b" x")])
    until(lambda: count(timed) == before[1] + 7)
    assert count(edited) == before[0] + 6


def test_a_second_milterd_refuses_and_the_first_goes_on(shared: Milterd) -> None:
    done = subprocess.run(
        shared.command("run"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1  # the other may end: systemd is to try again
    assert "another process is listening" in done.stderr
    assert shared.works()


def test_a_crowd_is_served(shared: Milterd) -> None:
    """Forty connections at once, each with three messages."""
    crowd = [shared.mta() for _ in range(40)]
    for _ in range(3):
        for mta in crowd:
            mta.begin(AGENT)
        for mta in crowd:
            assert mta.end().edits == (ChangeHeader(b"User-Agent", 1, b""),)
            mta.say(m.Abort())
    for mta in crowd:
        mta.close()
