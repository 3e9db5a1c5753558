"""A complete private Postfix: its own configuration, queue, data and log, chrooted smtpd.

The services are those of Debian's master.cf.dist, only smtpd listens on a private
loopback port.  Postfix's master has to be started by root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import Peer, answers, directory, free_port, program, running, wait_for

MASTER = Path("/usr/share/postfix/master.cf.dist")
_QUEUE = {
    **dict.fromkeys(
        (
            *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
            *("private", "saved", "trace"),
        ),
        ("postfix", None, 0o700),
    ),
    "maildrop": ("postfix", "postdrop", 0o730),
    "public": ("postfix", "postdrop", 0o710),
    "pid": ("root", None, 0o755),
}
"""Owner, group and mode of each directory of a queue, as in /etc/postfix/postfix-files."""
_TROUBLE = re.compile(r"(warning|error|fatal|panic): ")
# What cleanup(8) says of a machine whose files are dated a second ahead of its clock, as some
# virtual file systems do where a second begins: of the machine, not of the mail.
_CLOCK = re.compile(
    r"warning: (file system clock is \d+ seconds ahead of local clock"
    r"|resetting file time stamps - this hurts performance)$"
)


@dataclass(frozen=True)
class Postfix:
    """A Postfix that takes mail on 127.0.0.1:`port`.

    `queue` is its queue directory, which the chrooted smtpd sees as "/": put the
    socket of a milter below it and name it by its relative path.
    """

    port: int
    config: Path
    queue: Path
    peer: Peer

    def troubles(self) -> list[str]:
        """Every line of its log that is a warning or worse, but for the machine's clock."""
        lines = self.peer.said().splitlines()
        return [line for line in lines if _TROUBLE.search(line) and not _CLOCK.search(line)]

    def command(self, name: str, *arguments: str) -> str:
        """What one of its commands (postqueue, postconf, postsuper, postcat) prints."""
        command = [program(name, "postfix"), "-c", str(self.config), *arguments]
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30)
        return done.stdout

    def submit(self, message: bytes, sender: str, *recipients: str) -> None:
        """Hand in a mail with sendmail(1), the way that non_smtpd_milters are for."""
        command = [program("sendmail", "postfix"), "-C", str(self.config), "-i", "-f", sender]
        subprocess.run([*command, "--", *recipients], input=message, check=True, timeout=30)

    def set(self, main: Mapping[str, str]) -> None:
        """Change parameters of main.cf and reload.  Whoever comes from now on meets them; a
        session that is open goes on without."""
        self.command("postconf", "-e", *(f"{key}={value}" for key, value in main.items()))
        age(self.config / "main.cf")
        wait_for(self._lasting, "postfix looks after its queue")
        before = self._lasting()
        self.command("postfix", "reload")  # which sends a signal, and waits for nothing
        wait_for(lambda: (now := self._lasting()) and not before & now, "postfix reloads")

    def _lasting(self) -> set[str]:
        """The processes of pickup and qmgr, which start with the master.  A reload ends them
        after smtpd's that have no client: it goes by the order of master.cf."""
        master = (self.queue / "pid/master.pid").read_text().strip()
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return {each for each in children if _name(each) in {"pickup", "qmgr"}}


def _name(pid: str) -> str:
    """A process's program; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def age(file: Path) -> None:
    """Make a file old: before it reads a new one, Postfix waits for a second or two."""
    os.utime(file, (1_700_000_000, 1_700_000_000))


def lay_out(home: Path) -> Path:
    """Make the directories of a private Postfix, and give that of its configuration.

    All are as postfix(1) would make them, and it is told so: else it starts a hundred programs
    to see whether an installation is whole (postfix-script, quick-start).
    """
    config, queue, data = home / "config", home / "queue", home / "data"
    for each in (config, queue, data):
        each.mkdir()
    data.chmod(0o700)
    shutil.chown(data, "postfix")
    for name, (owner, group, mode) in _QUEUE.items():
        (queue / name).mkdir()
        shutil.chown(queue / name, owner, group)
        (queue / name).chmod(mode)
    (queue / "quick-start").touch()
    return config


def _main_cf(home: Path, main: Mapping[str, str]) -> str:
    lines = {
        "compatibility_level": "3.6",
        "queue_directory": str(home / "queue"),
        "data_directory": str(home / "data"),
        "maillog_file": str(home / "maillog"),
        "maillog_file_prefixes": str(home),
        "syslog_name": "postfix",
        "myhostname": "postfix.example.org",
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "alias_maps": "",
        "alias_database": "",
        "local_recipient_maps": "",
        "default_transport": "discard:",
        "local_transport": "discard:",
        "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        "smtpd_peername_lookup": "no",
        "smtp_host_lookup": "native",
        "smtp_dns_support_level": "disabled",
        "smtputf8_enable": "yes",
        **main,
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _write(home: Path, port: int, main: Mapping[str, str]) -> Path:
    config = lay_out(home)
    (config / "main.cf").write_text(_main_cf(home, main))
    age(config / "main.cf")
    services = re.sub(r"(?m)^smtp(?=\s+inet)", f"127.0.0.1:{port}", MASTER.read_text(), count=1)
    (config / "master.cf").write_text(services)
    return config


def _run(start: str, config: Path, verb: str) -> subprocess.CompletedProcess[str]:
    """Run postfix(1); what it says goes to a file, as its daemons keep the descriptor open."""
    with tempfile.TemporaryFile("w+") as said:
        command = [start, "-c", str(config), verb]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
        )
        said.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, said.read())


@contextmanager
def postfix(main: Mapping[str, str] | None = None) -> Iterator[Postfix]:
    """Run a private Postfix that discards all it accepts; `main` are parameters of main.cf
    on top, say a default_transport that delivers."""
    if os.geteuid():
        raise PermissionError("Postfix's master has to be started by root: use `make test`")
    start = program("postfix", "postfix")
    with directory("postfix") as home:
        port = free_port()
        config = _write(home, port, main or {})
        peer = Peer("postfix", home / "maillog")
        running.append(peer)
        try:
            done = _run(start, config, "start")
            if done.returncode:
                raise RuntimeError(f"postfix did not start: {done.stdout}{peer.said()}")
            try:
                wait_for(lambda: answers(port, b"220 "), "postfix answers")
            except TimeoutError as error:
                raise TimeoutError(f"{error}\n{peer.said()}") from None
            yield Postfix(port, config, home / "queue", peer)
        finally:
            running.remove(peer)
            # "abort" ends every process of this instance, and of no other.
            _run(start, config, "abort")
            wait_for(lambda: not answers(port), "postfix ends")
