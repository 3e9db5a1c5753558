"""A clamd that misbehaves as told; only for what the real one cannot be made to do."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Behaviour = Callable[[socket.socket], None]


@contextlib.contextmanager
def fake_clamd(behave: Behaviour, backlog: int = 5) -> Iterator[str]:
    """Serve each connection with `behave`, then close it; yields the address."""
    directory = Path(tempfile.mkdtemp(prefix="clamd-", dir="/tmp"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s"))
        listener.listen(backlog)
        thread = threading.Thread(target=_serve, args=(listener, behave))
        thread.start()
        try:
            yield f"unix:{directory / 's'}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            shutil.rmtree(directory)


def _serve(listener: socket.socket, behave: Behaviour) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.settimeout(30)
                behave(peer)
