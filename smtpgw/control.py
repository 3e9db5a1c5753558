"""What the supervisor tells a worker, and what it hears from it.

They share a pair of sockets.  Orders are settings that the supervisor has checked
and the listening sockets that go with them; a worker answers each with one word.
The end of file on it means that the supervisor is gone.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from smtpgw.config import Loaded

CHANNEL = "GATEPOST_CHANNEL"
"""The environment variable with the number of the worker's end."""

READY = b"ready"
"""A worker's answer to orders that it follows from now on."""

REFUSED = b"refused: "
"""A worker's answer to orders that it cannot follow; the reason comes after it."""

MAX_LISTENERS = 100
_MAX_MESSAGE = 64 * 1024


class SupervisorGone(Exception):  # noqa: N818 - the name says what happened
    """Nobody is at the other end any more."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Settings, and the open listening socket of each listener in them by name."""

    settings: Loaded
    listeners: Mapping[str, socket.socket]


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end, not blocking, and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def send_orders(channel: socket.socket, orders: Orders) -> None:
    """Send them without waiting.  Raises OSError for a worker that is gone or stuck."""
    text = orders.settings.model_dump_json().encode()
    paper = os.memfd_create("gatepost-settings", os.MFD_CLOEXEC)
    try:
        os.truncate(paper, len(text))
        os.pwrite(paper, text, 0)
        names = json.dumps(list(orders.listeners)).encode()
        numbers = [paper, *(each.fileno() for each in orders.listeners.values())]
        socket.send_fds(channel, [names], numbers)
    finally:
        os.close(paper)


def receive_orders(channel: socket.socket) -> Orders:
    """The next orders.  Raises SupervisorGone, BlockingIOError."""
    names, numbers, _flags, _ = socket.recv_fds(channel, _MAX_MESSAGE, MAX_LISTENERS + 1)
    if not names:
        raise SupervisorGone
    paper, *rest = numbers
    try:
        text = os.pread(paper, os.fstat(paper).st_size, 0)
    finally:
        os.close(paper)
    listeners = [socket.socket(fileno=each) for each in rest]
    for each in listeners:
        each.set_inheritable(False)
    settings = Loaded.model_validate_json(text)
    return Orders(settings, dict(zip(json.loads(names), listeners, strict=True)))


def receive_answer(channel: socket.socket) -> bytes:
    """What a worker says; empty when it is gone."""
    try:
        return channel.recv(_MAX_MESSAGE)
    except ConnectionError:
        return b""
