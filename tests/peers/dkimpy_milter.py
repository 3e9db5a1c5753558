"""Debian's dkimpy-milter as a signing or a verifying milter, which asks no resolver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.peers.milter import Milter, Program
from tests.peers.opendkim import DOMAIN, SELECTOR, Key, make_key
from tests.peers.process import program


def prepare(home: Path, mode: str = "s", *, key: Key | None = None, **settings: str) -> Program:
    """dkimpy-milter with its files in `home`: mode "s" signs for example.net, "v" verifies,
    and takes `key` for the key of every signature.  `settings` are dkimpy-milter.conf(5)
    settings."""
    socket = home / "dkimpy-milter.sock"
    key = key or make_key(home)
    lines = {
        "Mode": mode,
        "Socket": f"local:{socket}",
        "Syslog": "no",
        "UMask": "0",
        "UserID": "root",
        "AuthservID": "mx.example.net",
        "Canonicalization": "relaxed/relaxed",
        "InternalHosts": "0.0.0.0/0" if mode == "s" else "192.0.2.255",
        # In place of DNS: it knows no other source of keys.
        "DNSOverride": key.record,
    }
    if mode == "s":
        lines |= {"Domain": DOMAIN, "Selector": SELECTOR, "KeyFile": str(key.private)}
    config = home / "dkimpy-milter.conf"
    config.write_text("".join(f"{name} {value}\n" for name, value in (lines | settings).items()))
    command = [program("dkimpy-milter", "dkimpy-milter"), str(config)]
    return Program("dkimpy-milter", home, socket, command)


@contextmanager
def dkimpy_milter(
    home: Path, mode: str = "s", *, key: Key | None = None, **settings: str
) -> Iterator[Milter]:
    """Run what `prepare` makes."""
    with prepare(home, mode, key=key, **settings).run() as peer:
        yield peer
