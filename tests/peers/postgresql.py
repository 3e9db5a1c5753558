"""A private PostgreSQL: its own cluster, a UNIX socket, and a loopback port.

It can be killed (SIGKILL) and started again on the same data, as tests of fail-over need.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.peers.process import Peer, answers, daemon, directory, free_port

_SETTINGS = ("fsync=off", "shared_buffers=4MB", "max_connections=40", "autovacuum=off")


def _program(name: str) -> str:
    """A program of the newest PostgreSQL that Debian has installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise FileNotFoundError(
            f"{name} is not installed: `make test` installs it (Debian package postgresql)"
        )
    return str(found[-1])


def _as_user() -> list[str]:
    """What goes before a command so that it runs as PostgreSQL's own user: it refuses root."""
    if os.geteuid():
        return []
    setpriv = shutil.which("setpriv") or "setpriv"
    return [setpriv, "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


class PostgreSql:
    """A PostgreSQL that listens in the directory `sockets` and on 127.0.0.1:`port`.

    `superuser` is trusted on its UNIX socket; every other one gives a password.
    """

    superuser = "postgres"

    def __init__(self, home: Path) -> None:
        self.home, self.sockets, self.port = home, home, free_port()
        self._running = ExitStack()
        self.peer: Peer | None = None

    def _install(self) -> None:
        data = self.home / "data"
        command = [
            *_as_user(), _program("initdb"), "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8",
            f"--username={self.superuser}", "--auth=trust", str(data),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=self.home, check=False
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        (data / "pg_hba.conf").write_text(
            f"local all {self.superuser} trust\n"
            "local all all scram-sha-256\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )

    def start(self) -> None:
        """Start it, and wait until it takes queries."""
        command = [
            *_as_user(), _program("postgres"), "-D", f"{self.home}/data", "-k", str(self.sockets),
            "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
            *(part for each in _SETTINGS for part in ("-c", each)),
        ]  # fmt: skip
        ready = lambda: answers(self.port) and self._query("SELECT 1").returncode == 0  # noqa: E731 - once
        self.peer = self._running.enter_context(
            daemon("postgresql", command, self.home, ready, end=signal.SIGINT)
        )

    def kill(self) -> None:
        """End it as a crash would: SIGKILL to its own process."""
        assert self.peer is not None
        os.kill(self.peer.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Make sure that it runs no more."""
        self._running.close()
        self.peer = None

    def _query(self, statements: str, database: str = "") -> subprocess.CompletedProcess[str]:
        command = [
            _program("psql"), "--host", str(self.sockets), "--port", str(self.port),
            "--username", self.superuser, "--dbname", database or "postgres", "--no-psqlrc",
            "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", "--file", "-",
        ]  # fmt: skip
        return subprocess.run(
            command, input=statements, capture_output=True, text=True, timeout=30, check=False
        )

    def sql(self, statements: str, database: str = "") -> str:
        """What psql prints: rows of columns with "|" between, no heading."""
        done = self._query(statements, database)
        if done.returncode:
            raise RuntimeError(f"{statements[:500]}: {done.stderr}")
        return done.stdout

    def connections(self, user: str) -> int:
        """How many connections a user has now."""
        return int(self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'"))


@contextmanager
def postgresql() -> Iterator[PostgreSql]:
    """Run PostgreSQL with an empty cluster of its own."""
    with directory("pgsql") as home:
        if os.geteuid() == 0:
            os.chown(home, pwd.getpwnam("postgres").pw_uid, -1)
        server = PostgreSql(home)
        server._install()
        try:
            server.start()
            yield server
        finally:
            server.stop()
