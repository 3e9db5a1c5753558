"""The descriptors behind libmilter's back: it opens and accepts sockets, and tells of neither."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any


def scratch_address(family: int, directory: str) -> str:
    """An address in `directory`, or on a port of the kernel's choice, as smfi_setconn wants it."""
    if family == socket.AF_UNIX:
        return f"unix:{directory}/s"
    return "inet6:0@::1" if family == socket.AF_INET6 else "inet:0@127.0.0.1"


def open_sockets() -> set[tuple[int, int]]:
    """Our open sockets, as descriptor and inode."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            state = os.fstat(int(each.name))
            if stat.S_ISSOCK(state.st_mode):
                found.add((int(each.name), state.st_ino))
    return found


def accepted(address: Any) -> set[int]:
    """Descriptors of the connections to an address: libmilter tells of one when it speaks."""
    found = set()
    for descriptor, _ in open_sockets():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as each:
            name = each.getsockname()
            ours = name == address or (isinstance(name, tuple) and name[1] == address[1])
            if ours and not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.add(descriptor)
    return found
