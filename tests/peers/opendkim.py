"""Debian's OpenDKIM as a signing or a verifying milter, with a key of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.peers.milter import Milter, Program
from tests.peers.process import directory, program

SELECTOR, DOMAIN = "peer", "example.net"


@dataclass(frozen=True)
class Key:
    """An RSA-2048 key of `DOMAIN`: the private half as a file, the public one as DNS has it."""

    private: Path
    record: str

    @property
    def records(self) -> dict[str, str]:
        """The TXT record by its name."""
        return {f"{SELECTOR}._domainkey.{DOMAIN}": self.record}


def make_key(home: Path) -> Key:
    """A key pair made by OpenDKIM's own tool, once for all that ask in one process."""
    octets, record = _made()
    private = home / f"{SELECTOR}.private"
    private.touch(0o600)
    private.write_bytes(octets)
    return Key(private, record)


@cache
def _made() -> tuple[bytes, str]:
    """The private key's file, and the record."""
    with directory("key") as home:
        command = [program("opendkim-genkey", "opendkim-tools"), "-b", "2048"]
        command += ["-s", SELECTOR, "-d", DOMAIN, "-D", str(home)]
        subprocess.run(command, check=True, capture_output=True)
        text = (home / f"{SELECTOR}.txt").read_text()
        return (home / f"{SELECTOR}.private").read_bytes(), "".join(text.split('"')[1::2])


def _config(home: Path, records: Mapping[str, str], lines: Mapping[str, str]) -> Path:
    """A configuration file whose DNS is `records`, TXT records by name."""
    keys = home / "records"
    keys.write_text("".join(f"{name} {record}\n" for name, record in records.items()))
    path = home / "opendkim.conf"
    common = {"TestPublicKeys": str(keys), "Syslog": "no", "RequireSafeKeys": "no"}
    path.write_text("".join(f"{name} {value}\n" for name, value in {**common, **lines}.items()))
    return path


def prepare(
    home: Path,
    mode: str = "s",
    *,
    key: Key | None = None,
    records: Mapping[str, str] | None = None,
    **settings: str,
) -> Program:
    """opendkim with its files in `home`: mode "s" signs for example.net, "v" verifies
    against `records` instead of DNS.  `settings` are opendkim.conf(5) settings."""
    socket = home / "opendkim.sock"
    lines = {
        "Mode": mode,
        "Socket": f"local:{socket}",
        "Canonicalization": "relaxed/relaxed",
        "OversignHeaders": "From",
        "UMask": "000",
        "Background": "no",
        "AlwaysAddARHeader": "yes",
        "InternalHosts": "0.0.0.0/0" if mode == "s" else "192.0.2.255",
    }
    if mode == "s":
        key = key or make_key(home)
        lines |= {"Domain": DOMAIN, "Selector": SELECTOR, "KeyFile": str(key.private)}
    config = _config(home, records or {}, lines | settings)
    command = [program("opendkim", "opendkim"), "-f", "-x", str(config)]
    return Program("opendkim", home, socket, command)


@contextmanager
def opendkim(
    home: Path,
    mode: str = "s",
    *,
    key: Key | None = None,
    records: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Milter]:
    """Run what `prepare` makes."""
    with prepare(home, mode, key=key, records=records, **settings).run() as peer:
        yield peer


def verify(message: bytes, records: Mapping[str, str]) -> str:
    """What OpenDKIM's own test mode says of a message: one line, "verification (s=... d=...)
    succeeded" when the signature it judged is good."""
    with directory("verify") as home:
        config = _config(home, records, {"Mode": "v"})
        mail = home / "message"
        mail.write_bytes(message)
        command = [program("opendkim", "opendkim"), "-x", str(config), "-t", str(mail)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        return (done.stdout + done.stderr).decode(errors="replace")
