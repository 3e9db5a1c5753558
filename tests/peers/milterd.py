"""Our own milterd with one filter, under either host, as a milter like any other."""

from __future__ import annotations

import sys
from pathlib import Path
from signal import SIGTERM

from tests.peers.milter import Program
from tests.peers.opendkim import DOMAIN, SELECTOR
from tests.peers.process import Peer


def signing_table(key: Path) -> str:
    """The dkim filter's setting to sign for example.net with the private key in that file."""
    row = f'domain = "{DOMAIN}", selector = "{SELECTOR}", key = "{key}"'
    return f"signing_table = [{{ {row} }}]\n"


def prepare(home: Path, name: str, host: str, settings: str = "") -> Program:
    """milterd with the filter `name` under `host` ("native", "libmilter"); `settings` are
    lines of its table.  The process is the supervisor."""
    socket = home / f"{name}.sock"
    config = home / "gatepost.toml"
    config.write_text(
        f'[log]\nformat = "json"\n[metrics]\nmilterd = ""\n'
        f'[milterd]\nsocket_directory = "{home}"\nsocket_group = ""\n'
        f'[filter.{name}]\nhost = "{host}"\n{settings}'
    )
    command = [sys.executable, "-m", "milterd", "run", "--config", str(config)]
    # The supervisor makes the socket before the filter is there to answer.
    log = Peer("milterd", home / "milterd.log")
    ready = lambda: '"serving"' in log.said()  # noqa: E731 - read once, here
    return Program("milterd", home, socket, command, ready, SIGTERM)
