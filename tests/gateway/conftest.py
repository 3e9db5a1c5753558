"""A gateway for each test, and a scripted milter."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.base import sockets
from tests.gateway.gateway import Gateway, until


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def gateway(place: Path) -> Iterator[Gateway]:
    """Not started yet; ended after the test whatever happened."""
    one = Gateway(place)
    yield one
    one.kill()


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    """One gateway for many tests: only 192.0.2.0/24 may relay, and example.net is ours."""
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    one = Gateway(path)
    one.configure('mynetworks = ["192.0.2.0/24"]\nmessage_size_limit = 6000000')
    one.start()
    yield one
    one.kill()
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def with_milter() -> Iterator[Gateway]:
    """One gateway with the scripted milter for many tests."""
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    with scripted(path) as socket:
        one = Gateway(path)
        held = '[smtpgw.quarantine]\naction = "hold"\n'
        one.configure(tables=milter_table(socket) + held)
        one.start()
        yield one
        one.kill()
    shutil.rmtree(path)


def milter_table(socket: Path) -> str:
    """The settings of the scripted milter."""
    return (
        f'[[smtpgw.milter]]\nname = "scripted"\naddress = "unix:{socket}"\n'
        "command_timeout = 5\ncontent_timeout = 5\n"
    )


_numbers = itertools.count()


@pytest.fixture
def user() -> str:
    """An address that no other test uses."""
    return f"u{next(_numbers)}@example.net"


@pytest.fixture
def milter(place: Path) -> Iterator[Path]:
    """A scripted milter of the test's own; its socket."""
    with scripted(place) as socket:
        yield socket


@contextlib.contextmanager
def scripted(place: Path) -> Iterator[Path]:
    """A pymilter milter that does what the Subject says; its socket."""
    path = place / "milter"
    script = Path(__file__).with_name("scripted_milter.py")
    process = subprocess.Popen([sys.executable, str(script), f"unix:{path}"])
    until(lambda: path.exists() and sockets.alive(str(path)), what="the milter")
    yield path
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def go_on(path: Path) -> Iterator[None]:
    """Whoever is slow at this milter goes on."""
    sign = path.with_name(f"{path.name}.go")
    sign.touch()
    yield
    sign.unlink()
