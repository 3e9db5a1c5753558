"""What is measured against what: both whole, on private sockets, with the same work to do.

Both sign with RSA keys of 2048 bits, ask the same clamd, log what they log by default, and have
mail on the disk before they say 250.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.crash.town import town
from tests.peers.clamav_milter import clamav_milter
from tests.peers.clamd import Clamd, clamd
from tests.peers.opendkim import opendkim
from tests.peers.postfix import postfix
from tests.peers.process import Peer, answers, daemon, directory, free_port, program, wait_for
from tests.tls.certificates import Authority


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
def scanner() -> Iterator[Clamd]:
    """The clamd that both sides ask.  It is not to know a body again: smtp-source sends the same
    one often."""
    with directory("clamd") as home, clamd(home, DisableCache="yes") as peer:
        yield peer


@contextmanager
def chain() -> Iterator[Path]:
    """The certificate and key of either side, as smtpd_tls_chain_files wants them."""
    with directory("chain") as home:
        issued = Authority().issue("mx.example.net", kind="rsa")
        path = issued.write(home / "chain.pem")
        path.chmod(0o600)
        yield path


@contextmanager
def ours(
    filters: bool,
    sink_port: int,
    workers: int = 0,
    *,
    clam: Clamd | None = None,
    tls: Path | None = None,
    more: str = "",
    environ: Mapping[str, str] | None = None,
    sockets: bool = False,
) -> Iterator[Side]:
    """The gateway, with a worker for each core unless told otherwise, `clam` for a scanner,
    the certificate `tls`, and `more` keys of smtpgw; its filters in the workers, or in milterd
    behind `sockets`."""
    delivery = f"lmtp:inet:127.0.0.1:{sink_port}"
    workers = workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        if filters and clam is None:
            clam = stack.enter_context(scanner())
        place = stack.enter_context(
            town(
                workers=workers,
                delivery=delivery,
                filters=filters,
                measured=True,
                scanner=clam.socket if clam else None,
                sockets=sockets,
            )
        )
        if tls:
            more += f'smtpd_tls_chain_files = "{tls}"\nsmtpd_tls_security_level = "may"\n'
        text = place.settings.read_text()
        place.settings.write_text(text.replace("[smtpgw]\n", f"[smtpgw]\n{more}"))
        for each in place.daemons:
            each.start(environ)
        place.wait_until_up()
        processes = [each.process for each in place.daemons]
        own = [clam.peer.pid] if clam else []
        yield Side(place.port, lambda: [*own, *(each.pid for each in processes if each)])


@contextmanager
def theirs(
    filters: bool, sink_port: int, *, clam: Clamd | None = None, tls: Path | None = None
) -> Iterator[Side]:
    """Postfix, with clamav-milter and OpenDKIM if there are to be filters."""
    main = {
        "default_transport": f"lmtp:inet:127.0.0.1:{sink_port}",
        "lmtp_destination_concurrency_limit": "20",
        "smtpd_client_connection_count_limit": "0",
        "default_process_limit": "250",
        "message_size_limit": "51200000",
    }
    if tls:
        main |= {"smtpd_tls_chain_files": str(tls), "smtpd_tls_security_level": "may"}
    with ExitStack() as stack:
        mta = stack.enter_context(postfix(main))
        roots: list[int] = []
        if filters:
            # Below the queue directory, where the chrooted smtpd finds them.
            homes = [mta.queue / "clamav-milter", mta.queue / "opendkim"]
            for each in homes:
                each.mkdir(mode=0o755)
            clam = clam or stack.enter_context(scanner())
            scan = stack.enter_context(clamav_milter(homes[0], clam))
            sign = stack.enter_context(opendkim(homes[1]))
            roots = [clam.peer.pid, scan.peer.pid, sign.peer.pid]
            paths = [each.socket.relative_to(mta.queue) for each in (scan, sign)]
            mta.set({"smtpd_milters": ", ".join(f"unix:{each}" for each in paths)})
            wait_for(lambda: answers(mta.port, b"220 "), "postfix answers again")
        master = int((mta.queue / "pid" / "master.pid").read_text())
        yield Side(mta.port, lambda: [master, *roots])


@contextmanager
def floor(tls: Path | None = None) -> Iterator[Side]:
    """Plain aiosmtpd with a handler that does nothing."""
    with directory("floor") as home:
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.floor", str(port), *[str(tls)] * bool(tls)]
        # It runs in a directory of its own, and the module is here.
        environ = {"PYTHONPATH": str(Path(__file__).parents[2])}
        ready = lambda: answers(port, b"220 ")  # noqa: E731 - read once, here
        with daemon("aiosmtpd", command, home, ready, environ=environ) as peer:
            yield Side(port, lambda: [peer.pid])
