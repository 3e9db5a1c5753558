"""A gateway under a fault: its disk, its system calls, its limits, its log, its peers.

Faults are real ones: a tmpfs that is full, a system call that fails, a limit of the kernel.
Each is a context manager that takes its fault back at the end, so that tests can share a
gateway and see it recover.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.gateway.gateway import Gateway, until

QUEUE = "queue_minfree = '1M'\nminimal_backoff_time = '0.5s'\nmaximal_backoff_time = '1s'"
"""For a queue on a small disk; what was deferred comes again soon."""


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A directory with a short name, for sockets."""
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gf"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def disk(where: Path, options: str = "size=32m,nr_inodes=300") -> Iterator[Path]:
    """A small file system of its own at `where`."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def remount(where: Path, options: str) -> None:
    """Change a disk, for example to `ro`, which needs that nobody has a file open to write."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(where)], check=True)


def free(where: Path) -> int:
    """Free octets."""
    found = os.statvfs(where)
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def filled(where: Path, leave: int = 0) -> Iterator[None]:
    """All but `leave` octets of a disk are in use."""
    filler = where / "filler"
    with filler.open("wb", buffering=0) as file:
        until(lambda: _allocated(file.fileno(), max(free(where) - leave, 1)), what="the filling")
    try:
        yield
    finally:
        filler.unlink()


def _allocated(number: int, octets: int) -> bool:
    """Whether there still was so much room as it seemed."""
    try:
        os.posix_fallocate(number, 0, octets)
    except OSError:
        os.ftruncate(number, 0)
        return False
    return True


@contextlib.contextmanager
def without_inodes(where: Path) -> Iterator[None]:
    """Not one more file can be made on a disk."""
    many = where / "many"
    many.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (many / str(number)).touch()
    try:
        yield
    finally:
        shutil.rmtree(many)


@contextlib.contextmanager
def gateway(
    place: Path,
    top: str = "",
    tables: str = "",
    delivery: str = "",
    queue: str = "",
    kind: type[Gateway] = Gateway,
) -> Iterator[Any]:
    """One that is configured and not started; its queue is below `place/disk` if that is there.

    `queue` are lines for [smtpgw.queue], `kind` is its class.  It ends with the test whatever
    happened.
    """
    one = kind(place)
    if (place / "disk").is_dir():
        one.queue = place / "disk" / "queue"
    one.configure(top, tables, delivery)
    text = one.file.read_text().replace("[smtpgw.queue]", f"[smtpgw.queue]\n{queue}")
    one.file.write_text(text)
    try:
        yield one
    finally:
        one.kill()


class Later(Gateway):
    """A gateway where mail can be made to wait in the queue: that for later.example, until
    somebody asks for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = itertools.count()
        self._gate = self.place / "later"

    def send_new(self) -> str:
        """Send a mail that is delivered at once; its recipient, whom no other mail is for."""
        address = f"n{next(self._numbers)}@example.net"
        assert self.send(recipients=[address])[0] == 250
        return address

    def send_later(self) -> str:
        """Send a mail that stays in the queue until it :meth:`arrives`."""
        address = f"l{next(self._numbers)}@later.example"
        if not self._gate.is_file():
            self._gate.unlink(missing_ok=True)
            self._gate.touch()  # where a directory should be
        assert self.send(recipients=[address])[0] == 250
        until(lambda: self.count("delivery", recipient=address, outcome="deferred"), what="wait")
        return address

    def arrives(self, address: str) -> bytes:
        """The one mail for this address, once it is there; opens the gate."""
        if self._gate.is_file():
            self._gate.unlink()
            self._gate.symlink_to(self.mail)
        root = self._gate if address.endswith("later.example") else self.mail
        new = root / address / "new"
        (found,) = until(lambda: list(new.glob("*")), what=f"mail for {address}")
        return found.read_bytes()


@contextlib.contextmanager
def later(place: Path, top: str = "", queue: str = QUEUE) -> Iterator[Later]:
    """Such a gateway, not started yet; it starts its worker again quickly."""
    transport = f'[smtpgw.transport]\n"later.example" = "maildir:{place / "later"}"\n'
    top = f'relay_domains = ["later.example"]\nservice_throttle_time = "0.2s"\n{top}'
    with gateway(place, top, transport, queue=queue, kind=Later) as one:
        yield one


def worker(one: Gateway) -> int:
    """The process id of the one worker, once there is one."""
    return until(lambda: (one.workers() or [0])[-1], what="a worker")


@contextlib.contextmanager
def failing(pid: int, inject: str, place: Path, *paths: Path) -> Iterator[Path]:
    """A process whose system calls fail as strace's inject= says, for example
    `fdatasync:error=EIO`; only for these paths, if there are any.  The trace's file."""
    trace = place / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-p", str(pid)]
    command += ["-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}"]
    command += [f"--trace-path={each}" for each in paths]
    with (place / "strace").open("w") as said:
        tracer = subprocess.Popen(command, stderr=said)
    try:
        # Threads are attached one by one: wait for all that there are now.
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        until(lambda: _traced(pid) >= threads, what="strace")
        yield trace
    finally:
        _end(tracer, pid)


def _end(tracer: subprocess.Popen[bytes], pid: int) -> None:
    """Let strace go; it ends by itself with a process that has ended, and would not let go of
    one that ends just now."""
    if not _gone(pid):
        tracer.terminate()
    try:
        tracer.wait(10)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _traced(pid: int) -> int:
    count = 0
    for each in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            count += "TracerPid:\t0\n" not in (each / "status").read_text()
    return count


@contextlib.contextmanager
def limited(pid: int, what: int, soft: int) -> Iterator[None]:
    """A process with a limit (resource.RLIMIT_...), as prlimit(1) sets it."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
