"""No more processes and threads may be made (F34): some mail waits at its sender, nothing ends,
and as soon as the limit is gone all is as before.

The gateway runs as a user for whom the limit counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults import place
from tests.faults.place import Later
from tests.gateway.gateway import until

USER = "nobody"
AS_USER = ("setpriv", "--reuid", USER, "--regid", "nogroup", "--clear-groups")


@contextlib.contextmanager
def one_process(pid: int) -> Iterator[None]:
    """A process whose user may have one process and no more threads.  Changed as that user:
    elsewhere than on a bare machine root may not."""
    command = [*AS_USER, "prlimit", "--pid", str(pid)]
    shown = subprocess.run(
        [*command, "--nproc", "--noheadings", "-o", "SOFT"], check=True, capture_output=True
    )
    subprocess.run([*command, "--nproc=1:"], check=True)
    try:
        yield
    finally:
        subprocess.run([*command, f"--nproc={shown.stdout.decode().strip()}:"], check=False)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Later]:
    with place.home() as home, place.later(home, queue=place.QUEUE) as one:
        shutil.chown(home, USER)
        home.chmod(0o755)
        yield one.start(prefix=AS_USER)


def attempt(gateway: Later) -> int:
    """The code of the answer to a mail; 0 for a connection that was lost."""
    try:
        return gateway.send()[0]
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except (OSError, smtplib.SMTPException):
        return 0


def test_no_more_threads(gateway: Later) -> None:
    worker = place.worker(gateway)
    with one_process(worker), ThreadPoolExecutor(10) as pool:
        codes = set(pool.map(lambda _: attempt(gateway), range(40)))
    assert codes <= {250, 421, 451, 452}
    assert place.worker(gateway) == worker
    until(lambda: attempt(gateway) == 250, what="mail again")
    assert gateway.arrives(gateway.send_new())


def test_no_more_processes(gateway: Later) -> None:
    assert gateway.process is not None
    worker = place.worker(gateway)
    nursery = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    with one_process(gateway.process.pid), one_process(nursery):
        os.kill(worker, signal.SIGKILL)
        until(lambda: gateway.count("child not started"), what="a failed start")
        assert gateway.process.poll() is None
    until(lambda: attempt(gateway) == 250, what="mail again")
    assert gateway.arrives(gateway.send_new())
