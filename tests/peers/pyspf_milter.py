"""Debian's pyspf-milter (spf-engine), whose resolver is one on loopback.

It has no setting for its resolver and would ask the machine's, so it is started with
dnspython's default resolver set beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

from tests.peers.clamav_milter import Milter
from tests.peers.nameserver import NameServer
from tests.peers.process import answers, daemon, program

_START = """
import runpy, sys
import dns.resolver
only = dns.resolver.Resolver(configure=False)
only.nameservers, only.port = ["127.0.0.1"], int(sys.argv.pop(1))
dns.resolver.default_resolver = only
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def pyspf_milter(home: Path, resolver: NameServer, **settings: str) -> Iterator[Milter]:
    """Run pyspf-milter: it rejects what fails SPF and reports the rest in a header.
    `settings` are its own (policyd-spf.conf(5))."""
    socket = home / "pyspf-milter.sock"
    lines = {
        "debugLevel": "1",
        "Socket": f"local:{socket}",
        "PidFile": str(home / "pyspf-milter.pid"),
        "UserID": "root",
        "UMask": "0",
        "Authserv_Id": "mx.example.net",
        "InternalHosts": "127.0.0.1",
        **settings,
    }
    config = home / "pyspf-milter.conf"
    config.write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    installed = program("pyspf-milter", "pyspf-milter")
    # Debian's own Python, where its modules are.
    command = ["/usr/bin/python3", "-c", _START, str(resolver.port), installed, str(config)]
    # libmilter takes five seconds to end by SIGTERM, and there is nothing to lose.
    with daemon("pyspf-milter", command, home, lambda: answers(socket), end=SIGKILL) as peer:
        yield Milter(socket, peer)
