"""/etc/hosts (hosts(5)), which knows names before the name service does, as nsswitch.conf has it.

The file is read again when it changes.  One that cannot be read, or is larger than
:data:`LIMIT`, knows nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from smtpgw.dns.answers import IpAddress, host_name

LIMIT = 1_000_000
"""Octets of the file that are read."""


@dataclass(frozen=True, slots=True)
class Known:
    """The first name of each address, on the first line with it; all addresses of each name, which
    is written as DNS has it."""

    names: dict[IpAddress, str] = field(default_factory=dict)
    addresses: dict[str, tuple[IpAddress, ...]] = field(default_factory=dict)


class HostsFile:
    """What the file says now."""

    def __init__(self, path: Path = Path("/etc/hosts")) -> None:
        self._path, self._name = path, str(path)
        self._stamp: tuple[int, int] | None = None
        self._known = Known()

    def now(self) -> Known:
        """What it says, the same object as long as it is the same file."""
        try:
            status = os.stat(self._name)  # noqa: PTH116 - each client asks, at a third of the cost
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                text = self._path.read_text("utf-8", "replace") if status.st_size <= LIMIT else ""
                self._known, self._stamp = _parse(text), stamp
        except OSError:
            self._known, self._stamp = Known(), None
        return self._known


def _parse(text: str) -> Known:
    known = Known()
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        try:
            address = ip_address(words[0].partition("%")[0]) if len(words) > 1 else None
        except ValueError:
            continue
        if address is None:
            continue
        known.names.setdefault(address, words[1])
        for each in words[1:]:
            _add(known, each, address)
    return known


def _add(known: Known, text: str, address: IpAddress) -> None:
    try:
        name = host_name(text)
    except ValueError:
        return
    known.addresses[name] = (*known.addresses.get(name, ()), address)
