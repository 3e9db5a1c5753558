"""How much TLS a peer must have, and whether what it showed is enough.

Levels are Postfix's (TLS_README): `none`; `may`, encrypted where the peer can; `encrypt`;
`fingerprint`, a certificate known by its SHA-256; `verify`, a trusted certificate that
names the host; `secure`, one that names the nexthop.  A name counts only in a
certificate's subjectAltName (RFC 9525).  TLS before 1.2 is never spoken (RFC 8996).
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import TlsOptions

LEVELS = ("none", "may", "encrypt", "fingerprint", "verify", "secure")
_VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_SPOKEN = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_PRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}\Z|[0-9A-Fa-f]{64}\Z")

Certificate = Mapping[str, Any]
"""What :meth:`ssl.SSLObject.getpeercert` returns."""


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is asked of one peer.  `match`: names (`nexthop`, `dot-nexthop`, `hostname`, or
    a name, `.parent` for all below it), or fingerprints.  `servername`: what SNI says
    instead of the host's name."""

    level: str = "none"
    match: tuple[str, ...] = ()
    protocols: str = ""
    servername: str = ""

    @property
    def required(self) -> bool:
        """Whether nothing is sent in the clear."""
        return self.level not in ("none", "may")

    @property
    def trusted(self) -> bool:
        """Whether a CA must vouch for the certificate."""
        return self.level in ("verify", "secure")


def parse_policy(text: str) -> TlsPolicy:
    """A level and its attributes: `secure match=mx.example.net:.example.net`.

    Raises ValueError saying what was expected.
    """
    level, *attributes = text.split() or [""]
    if level not in LEVELS:
        raise ValueError(f"{text!r}: expected a level: {', '.join(LEVELS)}")
    policy = TlsPolicy(level)
    for each in attributes:
        name, equals, value = each.partition("=")
        if not equals or not value:
            raise ValueError(f"{text!r}: expected match=, protocols= or servername=, not {each!r}")
        match name:
            case "match":
                marks = value.replace("|", " ") if level == "fingerprint" else value
                parts = tuple(marks.split() if level == "fingerprint" else marks.split(":"))
                policy = replace(policy, match=policy.match + parts)
            case "protocols":
                protocol_range(value)
                policy = replace(policy, protocols=value)
            case "servername":
                policy = replace(policy, servername=value)
            case _:
                raise ValueError(f"{text!r}: expected match, protocols or servername: {name!r}")
    return _checked(policy, text)


def _checked(policy: TlsPolicy, text: str) -> TlsPolicy:
    if policy.level == "fingerprint":
        if not policy.match or not all(_PRINT.match(each) for each in policy.match):
            raise ValueError(f"{text!r}: expected match= and SHA-256 of certificates, 32 in hex")
        prints = tuple(each.replace(":", "").lower() for each in policy.match)
        return replace(policy, match=prints)
    if policy.match and not policy.trusted:
        raise ValueError(f"{text!r}: expected match= with verify, secure or fingerprint only")
    if not policy.match and policy.trusted:
        match = ("hostname",) if policy.level == "verify" else ("nexthop", "dot-nexthop")
        return replace(policy, match=match)
    return policy


def protocol_range(text: str) -> tuple[ssl.TLSVersion, ssl.TLSVersion]:
    """The first and last version of a list as smtp_tls_protocols takes it: `>=TLSv1.2`,
    `<=TLSv1.3`, `!TLSv1, !TLSv1.1`, or names.  Raises ValueError."""
    wanted: set[str] = set()
    allowed = set(_VERSIONS)
    for each in re.split(r"[\s,:]+", text.strip()):
        name = each.lstrip("<>=!")
        if name not in _VERSIONS:
            known = ", ".join(_VERSIONS)
            raise ValueError(f"{text!r}: expected versions ({known}) with >=, <= or !")
        at = _VERSIONS.index(name)
        match each.removesuffix(name):
            case ">=":
                allowed -= set(_VERSIONS[:at])
            case "<=":
                allowed -= set(_VERSIONS[at + 1 :])
            case "!":
                allowed -= {name}
            case "":
                wanted.add(name)
            case sign:
                raise ValueError(f"{text!r}: expected >=, <= or !, not {sign!r}")
    spoken = [each for each in _SPOKEN if each in allowed and (not wanted or each in wanted)]
    if not spoken:
        raise ValueError(f"{text!r}: expected TLSv1.2 or TLSv1.3 among them")
    return _SPOKEN[spoken[0]], _SPOKEN[spoken[-1]]


class TlsPolicies:
    """The policy for each hop, and the settings OpenSSL needs for it."""

    def __init__(self, options: TlsOptions) -> None:
        """Raises ValueError for what cannot be read."""
        self._options = options
        self._smtp = parse_policy(options.smtp_tls_security_level)
        self._lmtp = parse_policy(options.lmtp_tls_security_level)
        self._table = {key.lower(): parse_policy(text) for key, text in options.policies}
        self._contexts: dict[tuple[bool, str], ssl.SSLContext] = {}

    def policy(self, hop: Hop) -> TlsPolicy:
        """The nexthop's entry, one for a `.parent` of a bare domain, or the level for all.

        A UNIX socket has none: what goes there never leaves the machine.
        """
        if hop.local:
            return TlsPolicy()
        key = hop.nexthop.lower()
        found = self._table.get(key)
        while found is None and "." in key:  # what is in brackets has no parent with a "]"
            key = key.partition(".")[2]
            found = self._table.get(f".{key}")
        return self._named(found or (self._lmtp if hop.lmtp else self._smtp), hop)

    @staticmethod
    def _named(policy: TlsPolicy, hop: Hop) -> TlsPolicy:
        """The policy with the names that `hostname` and `nexthop` stand for."""
        if not policy.trusted:
            return policy
        meant = {"hostname": hop.host, "nexthop": hop.domain, "dot-nexthop": f".{hop.domain}"}
        return replace(policy, match=tuple(meant.get(each, each).lower() for each in policy.match))

    def context(self, policy: TlsPolicy) -> ssl.SSLContext:
        """What OpenSSL is told.  Raises ValueError for files that do not serve."""
        options = self._options
        usual = options.smtp_tls_protocols if not policy.required else ""
        protocols = policy.protocols or usual or options.smtp_tls_mandatory_protocols
        key = policy.trusted, protocols
        if key not in self._contexts:
            self._contexts[key] = self._new(*key)
        return self._contexts[key]

    def _new(self, trusted: bool, protocols: str) -> ssl.SSLContext:
        options = self._options
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The names a policy asks for are more than the one OpenSSL would look for.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED if trusted else ssl.CERT_NONE
        context.minimum_version, context.maximum_version = protocol_range(protocols)
        file, directory = options.smtp_tls_CAfile, options.smtp_tls_CApath
        if trusted and (file or directory):
            with _naming("smtp_tls_CAfile", file or directory):
                context.load_verify_locations(file or None, directory or None)
        elif trusted:
            context.load_default_certs()
        if options.smtp_tls_cert_file:
            with _naming("smtp_tls_cert_file", options.smtp_tls_cert_file):
                key = options.smtp_tls_key_file or None
                context.load_cert_chain(options.smtp_tls_cert_file, key)
        return context

    def check(self) -> None:
        """Make every context there can be.  Raises ValueError for files that do not serve."""
        for each in (self._smtp, self._lmtp, *self._table.values()):
            self.context(each)


@contextlib.contextmanager
def _naming(setting: str, file: str) -> Iterator[None]:
    """OpenSSL does not say which file it means."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one too
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"{setting}: {file}: {reason or error}") from None


def server_name(policy: TlsPolicy, hop: Hop) -> str | None:
    """What SNI says: a name, as addresses have no place in it (RFC 6066 section 3)."""
    name = policy.servername or hop.host
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name or None
    return None


def objection(policy: TlsPolicy, connection: ssl.SSLObject) -> str | None:
    """Why the certificate is not the one asked for, if so."""
    if policy.level == "fingerprint":
        octets = connection.getpeercert(binary_form=True) or b""
        found = hashlib.sha256(octets).hexdigest()
        return None if found in policy.match else f"certificate has the fingerprint {found}"
    if not policy.trusted:
        return None
    names = certificate_names(connection.getpeercert() or {})
    if any(named(name, wanted) for wanted in policy.match for name in names):
        return None
    shown = ", ".join(names[:10]) or "no name"
    return f"certificate is for {shown}, not {' or '.join(policy.match)}"


def certificate_names(certificate: Certificate) -> list[str]:
    """Host names and addresses of a subjectAltName, in small letters."""
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    found = [value.lower() for kind, value in names if kind == "DNS"]
    # OpenSSL writes out every group of an IPv6 address.
    addresses = [value.strip() for kind, value in names if kind == "IP Address"]
    return found + [str(ipaddress.ip_address(each)) for each in addresses]


def named(name: str, wanted: str) -> bool:
    """Whether a certificate's name is the one wanted: itself, any below a `.parent`, or by
    a `*` that stands for the whole first label (RFC 9525 section 6.3)."""
    if wanted.startswith("."):
        return name.removeprefix("*").endswith(wanted) and name != wanted
    if name.startswith("*."):
        first, dot, parent = wanted.partition(".")
        return bool(first and dot) and parent == name[2:] and "." in parent
    return bool(wanted) and name.rstrip(".") == wanted


def facts(policy: TlsPolicy, connection: ssl.SSLObject) -> str:
    """What was agreed, for the log of a delivery."""
    cipher = connection.cipher()
    name = cipher[0] if cipher else "?"
    known = "verified" if policy.required and policy.level != "encrypt" else "unverified"
    return f"{known} {connection.version() or '?'} {name}"
