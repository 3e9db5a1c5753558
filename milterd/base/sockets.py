"""Listening sockets: their addresses, their making, their taking over, their end.

A UNIX socket is made so that nobody can connect before its mode and owner are
right, a dead one is found by connecting to it, and nothing is ever unlinked
that is alive, a symbolic link, not a socket, or somebody else's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import grp
import ipaddress
import os
import pwd
import re
import socket
import stat
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MAX_PATH = 107
"""Octets of a UNIX socket path, without its final NUL (unix(7))."""

_FIRST_INHERITED = 3


class SocketError(Exception):
    """A socket cannot be had; the message says which and why."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where to listen or connect: a path, or a host and a port (0 = any free one)."""

    kind: Literal["unix", "inet", "inet6"]
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return (
            f"unix:{self.path}" if self.kind == "unix" else f"{self.kind}:{self.port}@{self.host}"
        )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.kind == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@functools.lru_cache(maxsize=256)
def parse(text: str, *, directory: str = "") -> SocketAddress:
    """An address from `unix:PATH`, `inet:PORT@HOST`, `inet6:PORT@HOST`, `inet:HOST:PORT`
    (Postfix's order), `HOST:PORT` or `[V6]:PORT`.

    A relative path is taken from `directory`.  Raises ValueError.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("unix", "local"):
        return _parse_path(rest, directory)
    if colon and scheme in ("inet", "inet6"):
        port, at, host = rest.partition("@")
        if not at:
            host, port = _host_port(rest)
        return _parse_host(host or ("::1" if scheme == "inet6" else "127.0.0.1"), port, scheme)
    host, port = _host_port(text)
    return _parse_host(host, port, "")


def _parse_path(path: str, directory: str) -> SocketAddress:
    full = str(Path(directory) / path) if path else ""
    if not full or "\0" in full:
        raise ValueError("expected a path after unix:")
    if len(os.fsencode(full)) > MAX_PATH:
        length = len(os.fsencode(full))
        raise ValueError(f"expected a socket path of at most {MAX_PATH} octets, not {length}")
    return SocketAddress("unix", path=full)


def _host_port(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:(\d+)|([^:\[\]@/]*):(\d+)", text)
    if match is None:
        raise ValueError('expected "unix:/path", "inet:port@host", "host:port" or "[v6]:port"')
    return (match[1], match[2]) if match[1] else (match[3] or "0.0.0.0", match[4])


def _parse_host(host: str, port: str, scheme: str) -> SocketAddress:
    host = host.removeprefix("[").removesuffix("]")
    if re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65535:
        raise ValueError(f"expected a port from 0 to 65535, not {port!r}")
    try:
        six = ipaddress.ip_address(host).version == 6
    except ValueError:
        six = scheme == "inet6"
        if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})", host) is None:
            raise ValueError(f"expected a host name or address, not {host!r}") from None
    return SocketAddress("inet6" if six else "inet", host=host, port=int(port))


def listen(
    address: SocketAddress,
    mode: int = 0o660,
    owner: str = "",
    group: str = "",
    backlog: int = 128,
) -> socket.socket:
    """A listening socket, not inherited by children unless passed on.

    `mode`, `owner` and `group` (names or numbers; empty keeps ours) are for
    UNIX sockets.  Raises :class:`SocketError`.
    """
    try:
        if address.kind == "unix":
            return _listen_unix(address.path, mode, _uid(owner), _gid(group), backlog)
        return _listen_inet(address, backlog)
    except OSError as error:
        raise SocketError(f"{address}: {error.strerror or error}") from error


def _listen_inet(address: SocketAddress, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if address.kind == "inet6" else socket.AF_INET
    found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
    new = socket.socket(family, socket.SOCK_STREAM)
    try:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        new.bind(found[0][4])
        new.listen(backlog)
    except BaseException:
        new.close()
        raise
    return new


def _listen_unix(path: str, mode: int, uid: int, gid: int, backlog: int) -> socket.socket:
    with _directory_lock(path):
        _clear(path)
        new = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~mode)  # bind makes the name with what this leaves of 0777
        try:
            new.bind(path)
            if uid >= 0 or gid >= 0:
                os.chown(path, uid, gid, follow_symlinks=False)
            new.listen(backlog)  # only now can anybody connect
        except BaseException:
            new.close()
            raise
        finally:
            os.umask(before)
    return new


@contextlib.contextmanager
def _directory_lock(path: str) -> Iterator[None]:
    """One at a time looks for a dead socket in a directory and puts a new one there."""
    directory = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _clear(path: str) -> None:
    """Make the name free, if what has it is our own dead socket or nothing at all."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise SocketError(f"unix:{path}: is a symbolic link, which is never followed or removed")
    if not stat.S_ISSOCK(status.st_mode):
        raise SocketError(f"unix:{path}: exists and is not a socket; it is left alone")
    if alive(path):
        raise SocketError(f"unix:{path}: another process is listening there")
    if os.geteuid() not in (0, status.st_uid):
        raise SocketError(f"unix:{path}: a dead socket that belongs to uid {status.st_uid}")
    Path(path).unlink()


def alive(path: str, timeout: float = 1.0) -> bool:
    """Whether somebody listens on the UNIX socket at `path`.

    A full backlog, a time-out or a refusal for lack of permission counts as yes.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            return error.errno not in (errno.ENOTSOCK, errno.ENOTDIR, errno.EPROTOTYPE)
    return True


def remove(path: str) -> bool:
    """Unlink the UNIX socket at `path`, after its owner has closed it; say whether it was.

    What is alive, not a socket, somebody else's or not there stays as it is.
    """
    try:
        with _directory_lock(path):
            existed = os.path.lexists(path)
            _clear(path)
    except (SocketError, OSError):
        return False
    return existed


def inherited(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The sockets that the service manager passed (sd_listen_fds(3)), once."""
    return [each for _, each in inherited_named(environ)]


def inherited_named(
    environ: MutableMapping[str, str] = os.environ,
) -> list[tuple[str, socket.socket]]:
    """The same with their names from LISTEN_FDNAMES ("unknown" without one).

    The variables are removed, so that no child takes the sockets for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for at in range(int(count)):
        os.set_inheritable(_FIRST_INHERITED + at, False)
        name = names[at] if at < len(names) and names[at] else "unknown"
        found.append((name, socket.socket(fileno=_FIRST_INHERITED + at)))
    return found


def _uid(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid if name else -1
    except KeyError:
        raise SocketError(f"no such user: {name!r}") from None


def _gid(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid if name else -1
    except KeyError:
        raise SocketError(f"no such group: {name!r}") from None
