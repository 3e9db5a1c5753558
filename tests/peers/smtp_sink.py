"""Postfix's smtp-sink as a next hop, by SMTP or LMTP, keeping what it took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import Peer, answers, daemon, free_port, program


@dataclass(frozen=True)
class SmtpSink:
    """A sink at `port`; one file for each mail in `directory`."""

    port: int
    directory: Path
    peer: Peer

    def mails(self) -> list[bytes]:
        """Every whole mail so far as the sink wrote it: its own X- fields and a Received on
        top, line ends as LF.  What the sink still has open is not whole."""
        taken = sorted(self.directory.iterdir())
        opened = set(filter(None, map(_leads_to, Path(f"/proc/{self.peer.pid}/fd").iterdir())))
        return [each.read_bytes() for each in taken if str(each.resolve()) not in opened]


def _leads_to(descriptor: Path) -> str:
    """What it is open on; nothing once it is closed."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


@contextmanager
def smtp_sink(
    home: Path, *options: str, address: str = "127.0.0.1", port: int = 0
) -> Iterator[SmtpSink]:
    """Run smtp-sink(1) with `options` on top, for example "-L" for LMTP, at a loopback address
    and, by default, a port of its own."""
    port, taken = port or free_port(), home / "taken"
    taken.mkdir(parents=True)
    # A sink run by root wants another user to run as (-u), who has to write there.
    taken.chmod(0o777)
    command = [program("smtp-sink", "postfix"), "-u", "nobody", "-c", *options]
    command += ["-d", f"{taken}/%Y%m%d%H%M%S.", f"{address}:{port}", "128"]
    with daemon("smtp-sink", command, home, lambda: answers(port, b"220 ", at=address)) as peer:
        yield SmtpSink(port, taken, peer)
