"""What a daemon tells the service manager about itself (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send states such as "READY=1" to $NOTIFY_SOCKET; say whether anybody was told.

    Without a service manager this does nothing.  Raises nothing.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + path[1:] if path[0] == "@" else path)
            channel.send("\n".join(states).encode())
        except OSError:
            return False
    return True


def reloading(environ: Mapping[str, str] = os.environ) -> bool:
    """Say that a reload begins; READY=1 has to follow."""
    moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={moment}", environ=environ)
