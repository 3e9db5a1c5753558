"""A private MariaDB: its own data directory, a UNIX socket, and a loopback port.

It can be killed (SIGKILL) and started again on the same data, as tests of fail-over need.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.peers.process import Peer, answers, daemon, directory, free_port, program

_SETTINGS = (
    "--skip-log-bin",
    "--innodb-use-native-aio=OFF",  # of which a machine has a fixed amount for everybody
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=2",
    "--performance-schema=OFF",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
)


class MariaDb:
    """A MariaDB that listens on `socket` and on 127.0.0.1:`port`; root has no password."""

    def __init__(self, home: Path, settings: Sequence[str] = ()) -> None:
        self._settings = (*_SETTINGS, *settings)
        self.home, self.port = home, free_port()
        self.socket = home / "m.sock"
        self._running = ExitStack()
        self._user = "mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.peer: Peer | None = None

    def _install(self) -> None:
        command = [
            program("mariadb-install-db", "mariadb-server"), "--no-defaults", "--skip-test-db",
            f"--user={self._user}", f"--datadir={self.home}/data",
            "--auth-root-authentication-method=normal", "--innodb-log-file-size=8M",
            "--innodb-use-native-aio=OFF",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, cwd=self.home, check=False
        )
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db: {done.stdout[-4000:]}\n{done.stderr[-4000:]}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            program("mariadbd", "mariadb-server"), "--no-defaults", f"--user={self._user}",
            f"--datadir={self.home}/data", f"--socket={self.socket}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--pid-file={self.home}/m.pid", *self._settings,
        ]  # fmt: skip
        ready = lambda: self.socket.exists() and answers(self.port)  # noqa: E731 - once
        self.peer = self._running.enter_context(daemon("mariadb", command, self.home, ready))

    def kill(self) -> None:
        """End it as a crash would: SIGKILL to its own process."""
        assert self.peer is not None
        os.kill(self.peer.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Make sure that it runs no more."""
        self._running.close()
        self.peer = None

    def sql(self, statements: str, database: str = "") -> str:
        """What the command-line client prints: rows of columns with tabs between, no heading."""
        command = [
            program("mariadb", "mariadb-client"), "--no-defaults", f"--socket={self.socket}",
            "--user=root", "--batch", "--skip-column-names", "--default-character-set=utf8mb4",
            *([database] if database else []),
        ]  # fmt: skip
        done = subprocess.run(
            command, input=statements, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{statements[:500]}: {done.stderr}")
        return done.stdout

    def connections(self, user: str) -> int:
        """How many connections a user has now."""
        return int(
            self.sql(f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{user}'")
        )


@contextmanager
def mariadb(settings: Sequence[str] = ()) -> Iterator[MariaDb]:
    """Run MariaDB with an empty data directory of its own; `settings` are options on top."""
    with directory("mariadb") as home:
        server = MariaDb(home, settings)
        if os.geteuid() == 0:
            os.chown(home, pwd.getpwnam("mysql").pw_uid, -1)
        server._install()
        try:
            server.start()
            yield server
        finally:
            server.stop()
