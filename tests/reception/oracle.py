"""Debian's Postfix in a network namespace, its smtpd at many ports with settings of their own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.postfix import MASTER, age, lay_out
from tests.peers.process import Peer, directory, program, running, wait_for
from tests.reception.generated import World
from tests.reception.names import SERVER, SERVER6
from tests.reception.netns import Namespace
from tests.reception.talk import held


@dataclass(frozen=True)
class Oracle:
    """`place` is where its tables are."""

    space: Namespace
    home: Path
    peer: Peer

    @property
    def config(self) -> Path:
        return self.home / "config"

    def become(self, world: World, ports: Sequence[int]) -> None:
        """Go by this world from now on, its services at these ports."""
        world.write(self.home)
        self._write(world, ports)
        self.run("reload")
        wait_for(lambda: self._answers(ports[-1]), "Postfix serves its new ports")

    def _write(self, world: World, ports: Sequence[int]) -> None:
        main = {**_main(self.home), **world.main_cf(self.home)}
        lines = "".join(f"{name} = {value}\n" for name, value in main.items())
        (self.config / "main.cf").write_text(lines)
        services = re.sub(r"(?m)^smtp\s+inet.*\n", "", MASTER.read_text())
        for number, port in enumerate(ports):
            for each in (SERVER, f"[{SERVER6}]"):
                services += f"{each}:{port} inet n - n - - smtpd\n{world.master(self.home, number)}"
        (self.config / "master.cf").write_text(services)
        for each in ("main.cf", "master.cf"):
            age(self.config / each)

    def _answers(self, port: int) -> bool:
        try:
            client = self.space.connect("192.0.2.1", (SERVER, port), 2)
            return held(client, ["QUIT"])[0].code != 0
        except OSError:
            return False

    def run(self, verb: str) -> subprocess.CompletedProcess[str]:
        """postfix(1); what it says goes to a file, as its daemons keep the descriptor open."""
        command = [*self.space.prefix, program("postfix", "postfix"), "-c", str(self.config), verb]
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
            )
            said.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, said.read())

    def troubles(self) -> list[str]:
        """What its log says of settings that it cannot use."""
        return re.findall(r".*(?:fatal|panic|error): .*", self.peer.said())


def _main(home: Path) -> Mapping[str, str]:
    return {
        "compatibility_level": "3.6", "queue_directory": str(home / "queue"),
        "data_directory": str(home / "data"), "maillog_file": str(home / "maillog"),
        "maillog_file_prefixes": str(home), "syslog_name": "postfix",
        "inet_interfaces": f"{SERVER}, [{SERVER6}]", "inet_protocols": "all",
        "alias_database": "", "smtpd_error_sleep_time": "0",
        "smtpd_client_connection_rate_limit": "0", "smtpd_timeout": "60", "in_flow_delay": "0",
        "fast_flush_domains": "",
    }  # fmt: skip


@contextmanager
def oracle(space: Namespace, world: World, ports: Sequence[int]) -> Iterator[Oracle]:
    """Run one, first by this world."""
    if os.geteuid():
        raise PermissionError("Postfix's master has to be started by root: use `make test`")
    with directory("oracle") as home:
        peer = Peer("postfix", home / "maillog")
        one = Oracle(space, home, peer)
        lay_out(home)
        world.write(home)
        one._write(world, ports)
        running.append(peer)
        try:
            done = one.run("start")
            if done.returncode:
                raise RuntimeError(f"postfix did not start: {done.stdout}{peer.said()}")
            wait_for(lambda: one._answers(ports[0]), "Postfix answers")
            yield one
        finally:
            running.remove(peer)
            one.run("abort")
            wait_for(lambda: not one._answers(ports[0]), "Postfix ends")
