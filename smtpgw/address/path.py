"""Reverse-paths and forward-paths (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

A path is parsed once, here, from the octets of the command; what comes out is
an address whose every octet the grammar allows.  Quoting is kept as sent, a
source route is dropped (RFC 5321 appendix C), and nothing is guessed: what does
not parse raises :class:`PathError`.  Pure, and linear in the length of the input.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from dataclasses import dataclass, field

from smtpgw.address import form

MAX_LOCAL = 64
"""Octets of a local part (RFC 5321 section 4.5.3.1.1)."""

MAX_DOMAIN = 255
"""Octets of a domain (RFC 5321 section 4.5.3.1.2)."""

MAX_PATH = 256
"""Octets of a path with its brackets and separators (RFC 5321 section 4.5.3.1.3)."""

MAX_LABEL = 63
"""Octets of a domain label (RFC 1035 section 2.3.4)."""


class PathError(Exception):
    """The octets are not a path; `reason` is fit to be shown to the client.

    `needs_smtputf8` says that it would be one under SMTPUTF8 (RFC 6531).
    """

    def __init__(self, reason: str, *, needs_smtputf8: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.needs_smtputf8 = needs_smtputf8


@dataclass(frozen=True, slots=True)
class Path:
    """A mailbox, the null sender, or `postmaster` alone.

    `local` is the local part as sent, quotes and case kept.  `domain` is as sent
    without a trailing dot; it is empty for the null sender and for a local part
    that stands alone.  An address literal keeps its brackets.
    """

    local: bytes
    domain: bytes
    address: bytes = field(init=False, repr=False, compare=False)
    """The address without angle brackets; empty for the null sender."""
    meant: bytes = field(init=False, repr=False, compare=False)
    """Its internal form (:mod:`smtpgw.address.form`)."""

    def __post_init__(self) -> None:
        address = b"%b@%b" % (self.local, self.domain) if self.domain else self.local
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "meant", form.internal(address))

    @property
    def mailbox(self) -> bytes:
        """The local part's meaning: quotes and quoted pairs resolved."""
        if not self.local.startswith(b'"'):
            return self.local
        return re.sub(rb"\\(.)", rb"\1", self.local[1:-1])

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal, `[192.0.2.1]`."""
        return self.domain.startswith(b"[")

    @property
    def is_ascii(self) -> bool:
        """Whether the path can go where SMTPUTF8 is not offered."""
        return self.local.isascii() and self.domain.isascii()


NULL = Path(b"", b"")

_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]"
# No possessive group: Debian 12's first CPython 3.11.2 takes one octet too many with it.
_DOT_STRING = re.compile(rb"%b++(?:\.%b++)*" % (_ATOM, _ATOM))
_QUOTED = re.compile(rb'"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*"')
_HOP = re.compile(rb"@(?:\[[^\[\]]*+\]|[^\[\]:,@]++)")
_ROUTE = re.compile(rb"%b(?:,%b)*:" % (_HOP.pattern, _HOP.pattern))
_LABEL = re.compile(rb"[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\x80-\xff-]*[A-Za-z0-9_\x80-\xff])?\Z")
_STRICT_LABEL = re.compile(
    rb"[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]*[A-Za-z0-9\x80-\xff])?\Z"
)


def parse_path(
    octets: bytes,
    *,
    strict: bool = False,
    utf8: bool = False,
    null: bool = False,
    bare_local: frozenset[bytes] = frozenset({b"postmaster"}),
) -> tuple[Path, bytes]:
    """The path at the start of `octets`, and what stands after it (the parameters).

    `octets` is what follows `FROM:` or `TO:`.  Lax, as Postfix is by default,
    admits white space before the path, a path without brackets, a trailing dot
    and underscores in the domain; `strict` (strict_rfc821_envelopes) does not.
    `utf8` admits 8-bit addresses (RFC 6531), `null` the null sender.  A local
    part without a domain must be one of `bare_local`, in any case.
    Raises PathError.
    """
    inner, rest = _cut(octets if strict else octets.lstrip(b" \t"), strict)
    if rest and rest[:1] not in (b" ", b"\t"):
        raise PathError("something stands right after the address")
    if not inner:
        if not null:
            raise PathError("empty address")
        return NULL, rest
    return _parse_mailbox(inner, strict, utf8, bare_local), rest


def _cut(octets: bytes, strict: bool) -> tuple[bytes, bytes]:
    """What stands in the angle brackets, and what follows them."""
    if not octets.startswith(b"<"):
        if strict or not octets:
            raise PathError("address is not in angle brackets")
        end = _end_of_bare(octets)
        if end == 0:
            raise PathError("address missing")
        return octets[:end], octets[end:]
    end = _closing_bracket(octets)
    if end < 0:
        raise PathError("address lacks its closing bracket")
    return octets[1:end], octets[end + 1 :]


def _closing_bracket(octets: bytes) -> int:
    """Where the `>` stands that ends the path: one inside a quoted string does not."""
    at = 1
    while True:
        bracket, quote = octets.find(b">", at), octets.find(b'"', at)
        if quote < 0 or bracket < quote:
            return bracket
        quoted = _QUOTED.match(octets, quote)
        if quoted is None:
            raise PathError("bad quoted string")
        at = quoted.end()


def _end_of_bare(octets: bytes) -> int:
    quoted = _QUOTED.match(octets)
    space = octets.find(b" ", quoted.end() if quoted else 0)
    return len(octets) if space < 0 else space


def _parse_mailbox(inner: bytes, strict: bool, utf8: bool, bare_local: frozenset[bytes]) -> Path:
    if len(inner) + 2 > MAX_PATH:
        raise PathError(f"address is longer than {MAX_PATH} octets")
    _check_text(inner, utf8)
    inner = _without_route(inner, strict)
    local = _local_part(inner)
    rest = inner[len(local) :]
    if not rest:
        if local.lower() in bare_local:
            return Path(local, b"")
        raise PathError("address lacks a domain")
    if not rest.startswith(b"@"):
        raise PathError("bad local part")
    return Path(local, _domain(rest[1:], strict))


def _without_route(inner: bytes, strict: bool) -> bytes:
    """Drop `@a,@b:` (RFC 5321 section 4.1.1.3: accept, do not generate, may ignore)."""
    if not inner.startswith(b"@"):
        return inner
    route = _ROUTE.match(inner)
    if route is None:
        raise PathError("bad source route")
    for hop in _HOP.findall(route[0]):
        _domain(hop[1:], strict)
    return inner[route.end() :]


def _check_text(inner: bytes, utf8: bool) -> None:
    """8-bit octets must be UTF-8 of visible characters, and announced as such."""
    if inner.isascii():
        return
    try:
        text = inner.decode("utf-8")
    except UnicodeDecodeError:
        raise PathError("address is not valid UTF-8") from None
    if any(each > "\x7f" and unicodedata.category(each)[0] in "CZ" for each in text):
        raise PathError("address holds an invisible character")
    if not utf8:
        raise PathError("address needs SMTPUTF8", needs_smtputf8=True)


def _local_part(inner: bytes) -> bytes:
    match = (_QUOTED if inner.startswith(b'"') else _DOT_STRING).match(inner)
    if match is None:
        raise PathError("bad local part")
    if match.end() > MAX_LOCAL:
        raise PathError(f"local part is longer than {MAX_LOCAL} octets")
    return match[0]


@functools.lru_cache(1000)
def _domain(domain: bytes, strict: bool) -> bytes:
    if domain.startswith(b"["):
        if not is_literal(domain):
            raise PathError("bad address literal")
        return domain
    if not strict and domain.endswith(b"."):
        domain = domain[:-1]
    if len(domain) > MAX_DOMAIN:
        raise PathError(f"domain is longer than {MAX_DOMAIN} octets")
    label = _STRICT_LABEL if strict else _LABEL
    for each in domain.split(b"."):
        if len(each) > MAX_LABEL or label.match(each) is None:
            raise PathError("bad domain")
    return domain


def is_literal(octets: bytes) -> bool:
    """Whether this is `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3)."""
    return literal_address(octets) is not None


def literal_address(octets: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in an address literal, or None where there is none."""
    if not (octets.startswith(b"[") and octets.endswith(b"]") and octets.isascii()):
        return None
    text = octets[1:-1].decode("ascii")
    try:
        if text[:5].lower() == "ipv6:":
            return None if "%" in text else ipaddress.IPv6Address(text[5:])
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None
