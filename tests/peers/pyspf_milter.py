"""Debian's pyspf-milter (spf-engine), whose resolver is one on loopback.

It has no setting for its resolver and would ask the machine's, so it is started with
dnspython's default resolver set beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.peers.milter import Milter, Program
from tests.peers.nameserver import NameServer
from tests.peers.process import program

_START = """
import runpy, sys
import dns.resolver
only = dns.resolver.Resolver(configure=False)
only.nameservers, only.port = ["127.0.0.1"], int(sys.argv.pop(1))
dns.resolver.default_resolver = only
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def prepare(home: Path, resolver: NameServer, **settings: str) -> Program:
    """pyspf-milter with its files in `home`: it rejects what fails SPF and reports the rest in
    a header.  `settings` are its own (policyd-spf.conf(5))."""
    socket = home / "pyspf-milter.sock"
    lines = {
        "debugLevel": "1",
        "Socket": f"local:{socket}",
        # It does not start beside the file of one that was killed.
        "PidFile": "/dev/null",
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
    return Program("pyspf-milter", home, socket, command)


@contextmanager
def pyspf_milter(home: Path, resolver: NameServer, **settings: str) -> Iterator[Milter]:
    """Run what `prepare` makes."""
    with prepare(home, resolver, **settings).run() as peer:
        yield peer
