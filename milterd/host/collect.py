"""From a milter connection's events to mails: the same for both hosts.

A :class:`Collector` belongs to one connection.  Its event methods never raise: what
goes wrong while a mail arrives (no room on disk, too large) is kept and comes out of
:meth:`Collector.mail`, because the MTA awaits no reply before the end of message.
Values come in as they are on the wire and leave as :mod:`milterd.core.mail` wants
them: macro names without braces, addresses without angle brackets, header folds as
CRLF, the one leading space restored that the protocol eats without HDR_LEADSPC.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from milterd.core.mail import (
    CRLF,
    Client,
    Direction,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
    join_header,
)
from milterd.host.memory import Memory, Share
from milterd.host.options import Options
from milterd.host.spool import Spool
from milterd.wire.convert import value_from_wire

_BESIDE = 150
"""Octets of memory that an object takes for each text of a header or an envelope, beside the text:
a mail of nothing but fields of two octets takes thirty times what it counts against limits."""


class TooLargeError(Exception):
    """The mail is over `size_limit` or `header_limit`."""


class NoMemoryError(Exception):
    """The mails that come in have all of `memory_total`, and a header has nowhere else to go."""


def over_size(limit: int) -> str:
    """Why a mail is too large for `size_limit`."""
    return f"over size_limit ({limit} octets)"


def over_header(limit: int) -> str:
    """The same for `header_limit`."""
    return f"over header_limit ({limit} octets)"


def plain_macros(macros: Iterable[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """Macros by name without braces; names that are no ASCII are dropped."""
    return {name.strip(b"{}").decode("ascii"): value for name, value in macros if name.isascii()}


def bare_address(path: bytes) -> bytes:
    """What stands between the angle brackets, or all of it where there are none."""
    return path[1:-1] if path[:1] == b"<" and path[-1:] == b">" else path


def normal_address(family: Family, address: bytes) -> bytes:
    """An IP address without Sendmail's `IPv6:` prefix, IPv4-mapped ones as IPv4."""
    if family is not Family.INET6:
        return address
    if address[:5].upper() == b"IPV6:":
        address = address[5:]
    try:
        mapped = ipaddress.IPv6Address(address.decode("ascii", "replace")).ipv4_mapped
    except ValueError:
        return address
    return str(mapped).encode() if mapped else address


def direction_of(
    options: Options, macros: Mapping[str, bytes], trusted: Callable[[], bool]
) -> Direction:
    """Whose mail it is, by what the MTA says of it; `trusted` whether its client's network is."""
    if macros.get("auth_authen") or macros.get("auth_type"):
        return Direction.ORIGINATING
    if macros.get("daemon_name") in options.daemon_names or trusted():
        return Direction.ORIGINATING
    return Direction.INBOUND


def is_trusted(
    family: Family, address: bytes, networks: tuple[IPv4Network | IPv6Network, ...]
) -> bool:
    """Whether a client's address is in one of these networks."""
    if family not in (Family.INET, Family.INET6):
        return False
    try:
        found = ipaddress.ip_address(address.decode("ascii", "replace"))
    except ValueError:
        return False
    return any(found in each for each in networks)


class Collector:
    """One connection's events, gathered into one mail after the other.  What they take of the
    process's `memory` is given back when the mail is over."""

    def __init__(self, options: Options, memory: Memory | None = None) -> None:
        self._options = options
        self._memory = Share(memory or Memory(options.memory_total))
        self._client = Client()
        self._trusted: bool | None = None
        self._helo = b""
        self._session_macros: dict[str, bytes] = {}
        self.leading_space = True
        self._begin({})
        self.in_message = False

    def _begin(self, macros: Mapping[str, bytes]) -> None:
        self._macros = dict(macros)
        self._known: Direction | None = None  # once it is made, of a mail
        self._sender: tuple[bytes, tuple[bytes, ...]] = (b"", ())
        self._recipients: list[Recipient] = []
        self._headers: list[HeaderField] = []
        self._head_size = 0
        self._spool = self._new_spool()
        self._failure: Exception | None = None

    def _head(self) -> bytes:
        """The header as :meth:`mail` has it."""
        return join_header(self._headers) + CRLF

    def _new_spool(self) -> Spool:
        options = self._options
        return Spool(options.memory_limit, options.spool_directory, self._memory)

    @property
    def queue_id(self) -> str:
        """The MTA's queue id as far as it is known, for the log."""
        return self._macros.get("i", b"").decode("ascii", "replace")

    @property
    def direction(self) -> Direction:
        """Whose mail it is, as far as that is known."""
        return self._known or self._direction(self._session_macros | self._macros)

    @property
    def client(self) -> Client:
        """Who is connected to the MTA."""
        return self._client

    # --- events ---------------------------------------------------------------------

    def connected(
        self, name: bytes, family: Family, address: bytes, port: int, macros: Mapping[str, bytes]
    ) -> None:
        """A new SMTP session."""
        self.forget()
        address = normal_address(family, address)
        if family is Family.INET6 and b":" not in address:
            family = Family.INET
        self._client = Client(name, family, address, port)
        self._trusted = None
        self._helo = b""
        self._session_macros = dict(macros)

    def helo(self, name: bytes, macros: Mapping[str, bytes]) -> None:
        """HELO or EHLO."""
        self._helo = name
        self._session_macros |= macros

    def sender(self, address: bytes, args: tuple[bytes, ...], macros: Mapping[str, bytes]) -> None:
        """MAIL: a new message begins, whatever became of the one before."""
        self.forget()
        self.in_message = True
        self._macros = dict(macros)
        self._sender = (bare_address(address), args)
        self._count_head(len(address) + sum(map(len, args)), 1 + len(args))

    def recipient(self, address: bytes, args: tuple[bytes, ...]) -> None:
        """RCPT, before it is known whether the MTA accepts this recipient."""
        size = len(address) + sum(map(len, args))
        if self._count_head(size, 1 + len(args)):
            self._recipients.append(Recipient(bare_address(address), args))

    def header(self, name: bytes, value: bytes) -> None:
        """One header field, in wire form."""
        if not self._count_head(len(name) + len(value) + 3, 1):
            return
        if not self.leading_space or b"\n" in value:
            value = value_from_wire(value, self.leading_space)
        self._headers.append(HeaderField(name, value))

    def headers(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Header fields, as name and value in wire form."""
        size = sum([len(name) + len(value) + 3 for name, value in pairs])
        whole = self._head_size + size <= self._options.header_limit
        if not whole or not self.leading_space or not self._count_head(size, len(pairs)):
            for name, value in pairs:
                self.header(name, value)
            return
        self._headers += [
            HeaderField(name, value_from_wire(value, True) if b"\n" in value else value)
            for name, value in pairs
        ]

    def body(self, octets: bytes) -> None:
        """A piece of the body."""
        if self._failure is not None:
            return
        if self._head_size + self._spool.size + len(octets) > self._options.size_limit:
            self._fail(TooLargeError(over_size(self._options.size_limit)))
            return
        try:
            self._spool.write(octets, self._head)
        except OSError as error:
            self._fail(error)

    def macros(self, macros: Mapping[str, bytes]) -> None:
        """Macros that came with a later event of the message."""
        self._macros |= macros

    def fail(self, error: Exception) -> None:
        """Something of this message was lost; :meth:`mail` will raise `error`."""
        self._fail(error)

    # --- results --------------------------------------------------------------------

    def mail(self) -> Mail:
        """The collected mail; valid until :meth:`forget`.

        Raises :class:`TooLargeError`, or OSError where the body could not be spooled.
        """
        if self._failure is not None:
            raise self._failure
        body = self._spool.body()
        macros = self._session_macros | self._macros
        self._known = self._direction(macros)
        session = Session(self._client, self._helo, self._known, macros)
        envelope = Envelope(*self._sender, tuple(self._recipients))
        return Mail(session, envelope, tuple(self._headers), body)

    def forget(self) -> None:
        """The message is over: answered, aborted, or its connection lost."""
        began = self.in_message or self._macros or self._recipients or self._failure
        if not began and not self._head_size and not self._spool.size:
            return
        self.in_message = False
        self._spool.close()
        self._memory.give_all_back()
        self._begin({})

    # --- details --------------------------------------------------------------------

    def _direction(self, macros: Mapping[str, bytes]) -> Direction:
        return direction_of(self._options, macros, self._is_trusted)

    def _is_trusted(self) -> bool:
        """The same for all mails of a client."""
        if self._trusted is None:
            client, networks = self._client, self._options.trusted_networks
            self._trusted = is_trusted(client.family, client.address, networks)
        return self._trusted

    def _count_head(self, octets: int, texts: int) -> bool:
        """Whether that much more header or envelope may be kept, in so many texts."""
        self._head_size += octets
        if self._failure is not None:
            return False
        if self._head_size > self._options.header_limit:
            self._fail(TooLargeError(over_header(self._options.header_limit)))
            return False
        taken = octets + texts * _BESIDE
        if not self._memory.take(taken):
            limit = self._options.memory_total
            self._fail(NoMemoryError(f"no room left within memory_total ({limit} octets)"))
            return False
        return True

    def _fail(self, error: Exception) -> None:
        """Keep the first failure, and no octets: this mail will not be judged."""
        if self._failure is None:
            self._failure = error
            self._recipients.clear()
            self._headers.clear()
        self._spool.close()
        self._spool = self._new_spool()
        self._memory.give_all_back()
