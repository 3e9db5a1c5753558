"""A process that looks into attachments: one after the other, until nobody asks any more.

It gets a socket as its one argument.  A job is a line of JSON with a descriptor of the file; the
answer is a length in four octets and JSON.  What is looked at may take it down: whoever asks
starts another.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import asdict

from milterd.ports.attached.archives import Inspection
from milterd.ports.attached.found import Limits, Look, Obstacle

LINE = 4096


def main(number: int) -> None:
    """Serve the socket with that descriptor until it is closed."""
    asked = socket.socket(fileno=number)
    logging.disable(logging.CRITICAL)  # the libraries' words about strangers' files go nowhere
    while True:
        line, descriptors, _, _ = socket.recv_fds(asked, LINE, 1)
        if not line or not descriptors:
            return
        job = json.loads(line)
        limits = Limits(**job["limits"])
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
        # Who asked may be gone: nobody is looked for longer than anybody waits.
        signal.setitimer(signal.ITIMER_REAL, job["seconds"] + 5)
        answer = json.dumps(asdict(_look(descriptors[0], limits))).encode()
        signal.setitimer(signal.ITIMER_REAL, 0)
        asked.sendall(len(answer).to_bytes(4, "big") + answer)


def _look(descriptor: int, limits: Limits) -> Look:
    try:
        with os.fdopen(descriptor, "rb") as file:
            octets = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
        return Inspection(limits).look(octets)
    except Exception as error:  # noqa: BLE001  # told to whoever asked
        return Look(obstacles=(Obstacle("unavailable", f"failed: {type(error).__name__}"),))


if __name__ == "__main__":
    main(int(sys.argv[1]))
