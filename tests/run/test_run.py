"""`make run` where something is in its way, and what it keeps between two runs.

That it works is shown in tests/scenarios/test_make_run.py.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.process import answers, directory, free_port, wait_for

TOP = Path(__file__).parents[2]


@dataclass
class Site:
    """A site that was started, and what it wrote to the terminal."""

    var: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        return self.process.wait(10)

    def processes(self) -> set[int]:
        """Every process that was started with this site's directory on its command line."""
        found = set()
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.var).encode() in each.read_bytes():
                    found.add(int(each.parent.name))
            except OSError:
                continue  # it ended while we looked
        return found


@contextmanager
def site(var: Path, port: int) -> Iterator[Site]:
    command = [sys.executable, "packaging/run/launch.py", "--var", str(var), "--port", str(port)]
    number, path = tempfile.mkstemp(prefix="terminal-", dir=var.parent)
    with os.fdopen(number, "wb") as log:
        process = subprocess.Popen(command, cwd=TOP, stdout=log, stderr=log)
    one = Site(var, port, process, Path(path))
    try:
        yield one
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(10)
        sys.stderr.write(one.said()[-8000:])


@contextmanager
def ready(var: Path, port: int) -> Iterator[Site]:
    with site(var, port) as one:
        wait_for(lambda: one.process.poll() is not None or "Try this" in one.said(), "ready")
        assert one.process.poll() is None, one.said()
        yield one


@pytest.fixture
def var() -> Iterator[Path]:
    with directory("run") as path:
        yield path / "var"


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    """One that the tests share which leave it running."""
    with directory("run") as path, ready(path / "var", free_port()) as one:
        yield one


@pytest.fixture
def laid_out(var: Path) -> Path:
    """The settings of a site that never ran, since its port was taken."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        with site(var, other.getsockname()[1]) as one:
            assert one.wait() == 78
        assert "Address already in use" in one.said()
        assert str(other.getsockname()[1]) in one.said()
    assert "Traceback" not in one.said()
    assert not one.processes()
    assert not left(var)
    return var / "gatepost.toml"


def left(var: Path) -> list[Path]:
    """Sockets that are still there."""
    return [each for each in var.rglob("*") if each.is_socket()]


def test_it_starts_again_with_the_same_keys_and_keeps_edited_settings(laid_out: Path) -> None:
    var, first = laid_out.parent, laid_out.read_text()
    key = (var / "keys/rsa.pem").read_bytes()
    port = free_port()
    edited = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", first)
    laid_out.write_text(edited)
    with ready(var, free_port()) as one:  # the port of the edited file counts
        assert laid_out.read_text() == edited
        assert "was edited and is used as it is" in one.said()
        assert answers(port, b"220 ")
    laid_out.write_text(first)  # as it was made: it is made anew, with the port asked for
    with ready(var, port):
        assert laid_out.read_text().splitlines()[1:] == edited.splitlines()[1:]
        assert laid_out.read_text() != edited
        assert answers(port, b"220 ")
        assert (var / "keys/rsa.pem").read_bytes() == key


def test_keys_are_private_and_their_records_ready_to_publish(laid_out: Path) -> None:
    var = laid_out.parent
    assert (var / "keys").stat().st_mode & 0o777 == 0o700
    for kind in ("rsa", "ed25519"):
        assert (var / f"keys/{kind}.pem").stat().st_mode & 0o777 == 0o600
    zone = (var / "keys/keys.zone").read_text()
    for domain in ("example.net", "example.org", "example.com", socket.gethostname()):
        assert f"gatepost-rsa._domainkey.{domain}. IN TXT (" in zone
    assert all(len(each) <= 255 for each in re.findall(r'"([^"]*)"', zone))


def test_a_second_one_on_the_same_directory_is_refused(running: Site) -> None:
    with site(running.var, free_port()) as two:
        assert two.wait() == 78
    assert f"in use by another `make run`, process {running.process.pid}" in two.said()
    assert answers(running.port, b"220 ")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ('default = "maildir', 'defualt = "maildir'),
        ("[filter.headers]\n", '[filter.headers]\nrules = ["no-such-rules"]\n'),
    ],
    ids=["smtpgw", "milterd"],
)
def test_settings_that_cannot_be_used_stop_it_with_the_reason(
    laid_out: Path, broken: str, expected: str
) -> None:
    var = laid_out.parent
    laid_out.write_text(laid_out.read_text().replace(broken, expected))
    with site(var, free_port()) as one:
        assert one.wait() in (1, 78)
    assert "defualt" in one.said() or "no-such-rules" in one.said()
    assert "Traceback" not in one.said()
    assert not one.processes()
    assert not left(var)


def test_a_part_that_dies_is_named_and_stops_the_others(var: Path) -> None:
    with ready(var, free_port()) as one:
        clamd = [
            each
            for each in one.processes()
            if b"clamd" in Path(f"/proc/{each}/cmdline").read_bytes()
        ]
        assert len(clamd) == 1
        os.kill(clamd[0], signal.SIGKILL)
        assert one.wait() == 1
        assert "clamd ended: ended by SIGKILL" in one.said()
        assert not one.processes()


def test_nothing_outlives_a_killed_launcher(var: Path) -> None:
    with ready(var, free_port()) as one:
        one.process.kill()
        one.process.wait()
        wait_for(lambda: not one.processes(), "all parts end", within=10)
