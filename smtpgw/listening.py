"""The sockets that the gateway's first process listens on: opened once, kept over reloads.

A socket is known by its address, so a listener that only changes its name or its rules keeps
its queue of clients.  Those of the service manager are its own: they are used, and stay.
"""

from __future__ import annotations

import socket

from structlog.typing import FilteringBoundLogger

from milterd.base import sockets
from smtpgw.config import GatewaySettings
from smtpgw.config.policy_service import PolicyListener

_BACKLOG = 1024


class StartError(Exception):
    """The gateway cannot start, for a reason that is not in the settings."""


class Listening:
    """The sockets of all listeners.

    `of` are those in use, by the listener's name: the owner sets it when it takes settings, and
    may close the others then.
    """

    def __init__(self, given: dict[str, socket.socket], log: FilteringBoundLogger) -> None:
        self.of: dict[str, socket.socket] = {}
        self._given, self._log = given, log
        self._opened: dict[str, socket.socket] = {}

    def open(self, settings: GatewaySettings) -> dict[str, socket.socket]:
        """The socket of every listener in `settings`, those that are open already kept.

        Raises StartError, and leaves what was open as it was.
        """
        found: dict[str, socket.socket] = {}
        opened: dict[str, socket.socket] = {}
        try:
            for each in settings.smtpgw.listening:
                address = sockets.parse(each.address)
                kept = self._given.get(each.name) or self._opened.get(str(address))
                if kept is None:
                    group = each.socket_group if isinstance(each, PolicyListener) else ""
                    kept = sockets.listen(address, group=group, backlog=_BACKLOG)
                    opened[str(address)] = kept
                found[each.name] = kept
        except sockets.SocketError as error:
            for each_socket in opened.values():
                each_socket.close()
            raise StartError(str(error)) from error
        self._opened |= opened
        for name, each_socket in found.items():
            where = each_socket.getsockname()
            self._log.info("listening", listener=name, address=shown(where))
        return found

    def close_unused(self) -> None:
        """Close what no listener has: after a change, or after one that was not taken."""
        used = set(self.of.values())
        for address, each in list(self._opened.items()):
            if each not in used:
                each.close()
                del self._opened[address]

    def close(self) -> None:
        """Listen no more."""
        for each in (*self._opened.values(), *self._given.values()):
            each.close()

    def remove(self) -> None:
        """No name of a socket of ours stays behind; those of the service manager are its own."""
        for text in self._opened:
            address = sockets.parse(text)
            if address.kind == "unix":
                sockets.remove(address.path)


def shown(where: object) -> str:
    """A socket's address, as the log has it."""
    return f"{where[0]}:{where[1]}" if isinstance(where, tuple) else str(where)


def assign(
    settings: GatewaySettings, given: list[tuple[str, socket.socket]]
) -> dict[str, socket.socket]:
    """Which listener gets which socket of the service manager: by name where names agree
    (FileDescriptorName= in the socket unit), the others in order.

    Raises StartError for a socket that no listener is there for.
    """
    names = [each.name for each in settings.smtpgw.listening]
    found = {name: each for name, each in given if name in names}
    rest = [each for name, each in given if found.get(name) is not each]
    free = [name for name in names if name not in found]
    if len(rest) > len(free):
        raise StartError(f"{len(given)} sockets were passed, for {len(names)} listeners")
    return found | dict(zip(free, rest, strict=False))
