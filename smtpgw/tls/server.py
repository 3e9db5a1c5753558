"""One listener's TLS at work: what it shows now, to whom, and when it looks again.

Files are looked at (one stat each) at most every :data:`LOOK_EVERY` seconds, and only when a
client comes.  What has changed is read anew; where that fails the old certificates stay in
force, and the log says so once.  Keys of tickets belong to a context and die with it: no
listener goes on with another's session (they have contexts of their own), and none with one
older than `lifetime`, since the context is made anew then.
"""

from __future__ import annotations

import re
import ssl
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from smtpgw.edge.road import PeerCertificate, Tls
from smtpgw.tls import chains
from smtpgw.tls.chains import ChainError
from smtpgw.tls.context import ContextError, build
from smtpgw.tls.options import CannotAskError, ClientOptions, Files, ServerOptions

LOOK_EVERY = 5.0
"""Seconds between two looks at the files, at least."""
MAX_NAMES = 1000
"""Contexts for names of SNI that are kept."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\Z")
_BROKEN = (ChainError, ContextError, CannotAskError, OSError, ValueError)

Look = tuple[tuple[int, int, int], ...]
"""What files look like from outside: inode, size and time of change."""


class NamedChains(Protocol):
    """tls_server_sni_maps."""

    def files(self, name: str) -> Sequence[Files] | None:
        """The chain files for a name that was asked for, in lower case; None without an entry.
        Raises :class:`smtpgw.tls.chains.ChainError` where it cannot be known."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """`steady` only measures; `wall` is seconds since the epoch."""

    steady: Callable[[], float]
    wall: Callable[[], float]


class Watched:
    """A context from files, made anew when they have changed."""

    def __init__(
        self, options: ServerOptions, files: Sequence[Files], log: FilteringBoundLogger, now: float
    ) -> None:
        """Raises ChainError, ContextError, CannotAskError."""
        self._options, self._files, self._log = options, tuple(files), log
        self._paths = _paths(options, self._files)
        self._seen = _look(self._paths)
        self._chains = chains.read(self._files)
        self.context = build(options, self._chains)
        self._checked = self._made = now

    def renew(self, now: float) -> bool:
        """Look whether it is time for another context; say whether there is one now."""
        if not self._options.lifetime:
            # Sessions of TLS 1.2 are in the context, where Python does not let us turn them off.
            self.context = build(self._options, self._chains)
            self._look_again(now)
            return True
        return self._look_again(now)

    def _look_again(self, now: float) -> bool:
        if self._checked <= now < self._checked + LOOK_EVERY:
            return False
        self._checked = now
        look = _look(self._paths)
        if look != self._seen:
            self._seen = look
            return self._reread(now)
        lifetime = self._options.lifetime
        if lifetime and now >= self._made + lifetime:
            self.context, self._made = build(self._options, self._chains), now
            return True
        return False

    def _reread(self, now: float) -> bool:
        try:
            found = chains.read(self._files)
            self.context = build(self._options, found)
        except _BROKEN as error:
            self._log.error("new certificate not taken, the old one stays", reason=str(error))
            return False
        self._chains, self._made = found, now
        self._log.info("new certificate taken", files=[str(each.chain) for each in self._files])
        return True


class TlsServer:
    """A :class:`~smtpgw.edge.tls.Security`."""

    def __init__(
        self,
        options: ServerOptions,
        log: FilteringBoundLogger,
        clocks: Clocks,
        names: NamedChains | None = None,
    ) -> None:
        """Raises ChainError, ContextError, CannotAskError, and OSError or ValueError for the
        files of CAs."""
        self._options, self._log, self._clocks, self._names = options, log, clocks, names
        self._main = Watched(options, options.files, log, clocks.steady())
        self._by_name: OrderedDict[tuple[Files, ...], Watched] = OrderedDict()
        self._asked: weakref.WeakKeyDictionary[ssl.SSLObject, str] = weakref.WeakKeyDictionary()
        self._certificate = _certificates(options.clients) if options.clients.ask else None
        self._answer_names()

    def context(self) -> ssl.SSLContext:
        """What the next handshake goes by."""
        if self._main.renew(self._clocks.steady()):
            self._answer_names()
        return self._main.context

    def facts(self, connection: ssl.SSLObject) -> Tls:
        """What was negotiated, and with whom."""
        cipher = connection.cipher()
        name, bits = (cipher[0], cipher[2]) if cipher else ("", 0)
        certificate = None
        if self._certificate is not None:
            certificate = self._certificate(connection, self._clocks.wall())
        asked = self._asked.get(connection, "")
        return Tls(connection.version() or "", name, bits, asked, certificate)

    def _answer_names(self) -> None:
        # Annotated in typeshed as taking either class; only SSLObject comes from asyncio.
        self._main.context.sni_callback = self._name_asked

    def _name_asked(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> None:
        """A client says whom it wants to talk to (RFC 6066 section 3)."""
        if not name or not isinstance(connection, ssl.SSLObject):
            return
        plain = name.lower().rstrip(".")
        if len(plain) > 253 or _NAME.match(plain) is None:
            self._log.info("TLS name is none", name=name[:100])
            return
        self._asked[connection] = plain
        if self._names is None:
            return
        context = self._named(plain)
        if context is not None:
            connection.context = context

    def _named(self, name: str) -> ssl.SSLContext | None:
        assert self._names is not None  # noqa: S101 - asked for above
        try:
            files = self._names.files(name)
            if files is None:
                self._log.info("TLS name is not ours", name=name)
                return None
            return self._for(tuple(files))
        except _BROKEN as error:
            self._log.error("no certificate for a TLS name", name=name, reason=str(error))
            return None

    def _for(self, files: tuple[Files, ...]) -> ssl.SSLContext:
        now = self._clocks.steady()
        found = self._by_name.get(files)
        if found is None:
            found = self._by_name[files] = Watched(self._options, files, self._log, now)
            if len(self._by_name) > MAX_NAMES:
                self._by_name.popitem(last=False)
        self._by_name.move_to_end(files)
        found.renew(now)
        return found.context


def _certificates(
    options: ClientOptions,
) -> Callable[[ssl.SSLObject, float], PeerCertificate | None]:
    """Who reads clients' certificates.  Raises OSError or ValueError for the files of CAs.

    Few listeners ask for one, and what reads it takes 9 MB, so it is loaded for those alone."""
    from smtpgw.tls.peer import Authorities, certificate_of

    authorities = Authorities(options)
    _ = authorities.store  # what cannot be read is told at the start
    return lambda connection, when: certificate_of(connection, options, authorities, when)


def _paths(options: ServerOptions, files: Sequence[Files]) -> tuple[Path, ...]:
    found = [path for each in files for path in (each.chain, each.key) if path is not None]
    if options.dh_parameters is not None:
        found.append(options.dh_parameters)
    return tuple(found)


def _look(paths: Sequence[Path]) -> Look:
    return tuple(_stat(each) for each in paths)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns
