"""What is measured against what: both whole, on private sockets, with the same work to do.

Both sign with RSA keys of 2048 bits, ask a clamd each with the same database, log what they log
by default, and have mail on the disk before they say 250.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.hosts import write_key
from tests.crash.town import town
from tests.peers.clamav_milter import clamav_milter
from tests.peers.clamd import clamd
from tests.peers.opendkim import opendkim
from tests.peers.postfix import postfix
from tests.peers.process import Peer, answers, daemon, directory, free_port, program, wait_for


@dataclass(frozen=True)
class Side:
    """A server at work: where mail goes in, and the processes that it is, with its filters' ones
    and their scanner's."""

    port: int
    roots: Callable[[], list[int]]


@contextmanager
def sink() -> Iterator[tuple[int, Peer]]:
    """smtp-sink by LMTP, which counts and throws away."""
    with directory("sink") as home:
        port = free_port()
        command = [program("smtp-sink", "postfix"), "-u", "nobody", "-L", "-c"]
        command += [f"127.0.0.1:{port}", "1000"]
        with daemon("smtp-sink", command, home, lambda: answers(port, b"220 ")) as peer:
            yield port, peer


@contextmanager
def ours(filters: bool, sink_port: int, workers: int = 0) -> Iterator[Side]:
    """Both daemons, with a worker for each core unless told otherwise."""
    delivery = f"lmtp:inet:127.0.0.1:{sink_port}"
    workers = workers or len(os.sched_getaffinity(0))
    before = set(_named("clamd"))
    with town(workers=workers, delivery=delivery, filters=filters, deliveries=500) as place:
        scanner = [pid for pid in _named("clamd") if pid not in before]
        text = place.settings.read_text().replace('level = "warning"', 'level = "info"')
        place.settings.write_text(text)
        if filters:
            (place.home / "key.pem").unlink()
            write_key(place.home / "key.pem")
        for each in place.daemons:
            each.start()
        place.wait_until_up()
        processes = [each.process for each in place.daemons]
        yield Side(place.port, lambda: [*scanner, *(each.pid for each in processes if each)])


def _named(name: str) -> list[int]:
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                if (each / "comm").read_text().strip() == name:
                    found.append(int(each.name))
            except OSError:
                continue  # it ended while we looked
    return found


@contextmanager
def theirs(filters: bool, sink_port: int) -> Iterator[Side]:
    """Postfix, with clamav-milter and OpenDKIM if there are to be filters."""
    main = {
        "default_transport": f"lmtp:inet:127.0.0.1:{sink_port}",
        "lmtp_destination_concurrency_limit": "20",
        "smtpd_client_connection_count_limit": "0",
        "default_process_limit": "250",
    }
    with ExitStack() as stack:
        mta = stack.enter_context(postfix(main))
        roots: list[int] = []
        if filters:
            # Below the queue directory, where the chrooted smtpd finds them.
            homes = [mta.queue / "clamav-milter", mta.queue / "opendkim"]
            for each in homes:
                each.mkdir(mode=0o755)
            scanner = stack.enter_context(clamd(stack.enter_context(directory("clamd"))))
            scan = stack.enter_context(clamav_milter(homes[0], scanner))
            sign = stack.enter_context(opendkim(homes[1]))
            roots = [scanner.peer.pid, scan.peer.pid, sign.peer.pid]
            paths = [each.socket.relative_to(mta.queue) for each in (scan, sign)]
            mta.set({"smtpd_milters": ", ".join(f"unix:{each}" for each in paths)})
            wait_for(lambda: answers(mta.port, b"220 "), "postfix answers again")
        master = int((mta.queue / "pid" / "master.pid").read_text())
        yield Side(mta.port, lambda: [master, *roots])


@contextmanager
def floor() -> Iterator[Side]:
    """Plain aiosmtpd with a handler that does nothing."""
    with directory("floor") as home:
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.floor", str(port)]
        with daemon("aiosmtpd", command, home, lambda: answers(port, b"220 ")) as peer:
            yield Side(port, lambda: [peer.pid])
