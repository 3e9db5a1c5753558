"""Debian's rspamd as a milter: the proxy worker alone, which scans by itself.

No redis, no maps, no Lua modules, a resolver on loopback where nothing answers: it judges
by its built-in test patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

from tests.peers.milter import Milter, Program
from tests.peers.process import free_port, program

SPAM = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""What it rejects, in a body."""

_CONFIG = """\
options {{
    pidfile = "{home}/rspamd.pid";
    tempdir = "{home}";
    url_tld = "{home}/tld";
    control_socket = "{home}/control.sock mode=0600";
    hs_cache_dir = "{home}";
    filters = "";
    enable_test_patterns = true;
    dns {{ nameserver = ["127.0.0.1:{port}"]; timeout = 0.2s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
actions {{ reject = 15; add_header = 6; greylist = null; }}
worker "hs_helper" {{ count = -1; }}
worker "rspamd_proxy" {{
    bind_socket = "{socket} mode=0666";
    milter = yes;
    count = 1;
    timeout = 20s;
    upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""


def prepare(home: Path) -> Program:
    """rspamd with its files in `home`; mail with `SPAM` in its body is rejected."""
    socket = home / "rspamd.sock"
    # Debian's list of ten thousand suffixes takes it several seconds to compile.
    (home / "tld").write_text("com\nnet\norg\n")
    config = home / "rspamd.conf"
    config.write_text(_CONFIG.format(home=home, socket=socket, port=free_port()))
    # It may run as root only when told so; whom it would become could not enter `home`.
    command = [program("rspamd", "rspamd"), "--no-fork", "--insecure", "--config", str(config)]
    return Program("rspamd", home, socket, command, end=SIGTERM)


@contextmanager
def rspamd(home: Path) -> Iterator[Milter]:
    """Run what `prepare` makes."""
    with prepare(home).run() as peer:
        yield peer
