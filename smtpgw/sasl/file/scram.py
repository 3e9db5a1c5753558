"""SCRAM-SHA-256 on the server's side (RFC 5802, RFC 7677), without channel binding.  Sans-I/O.

What is kept of a password (RFC 5803) serves to check a proof, and not to make one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from smtpgw.sasl.prep import password_octets

NAME = "SCRAM-SHA-256"
ITERATIONS = 65_536
"""For new passwords; a client has to compute them at each login."""
MOST_ITERATIONS = 10_000_000
_LEAST_ITERATIONS = 4096

_KEYS = re.compile(
    rb"SCRAM-SHA-256\$([0-9]{1,8}):([A-Za-z0-9+/=]{4,200})"
    rb"\$([A-Za-z0-9+/=]{44}):([A-Za-z0-9+/=]{44})\Z"
)
_FIRST = re.compile(rb"([ny]),(?:a=([^,]*))?,(n=([^,]*),r=([!-+\--~]{1,512})(?:,.*)?)\Z", re.DOTALL)
_FINAL = re.compile(
    rb"(c=([A-Za-z0-9+/=]*),r=([!-+\--~]*)(?:,.*)?),p=([A-Za-z0-9+/=]{44})\Z", re.DOTALL
)
_ESCAPE = re.compile(rb"=(2C|3D)?")


class ScramError(ValueError):
    """What a client said is no SCRAM, or not what it said before."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is kept of a password."""

    salt: bytes
    iterations: int
    stored: bytes = field(repr=False)
    server: bytes = field(repr=False)

    def encode(self) -> bytes:
        """As in a file (RFC 5803)."""
        salt, stored, server = map(base64.b64encode, (self.salt, self.stored, self.server))
        return b"SCRAM-SHA-256$%d:%b$%b:%b" % (self.iterations, salt, stored, server)


def parse_keys(text: bytes) -> Keys:
    """Keys from a file.  Raises ValueError."""
    match = _KEYS.match(text)
    if match is None:
        raise ValueError("no keys of SCRAM-SHA-256")
    salt, stored, server = (base64.b64decode(match[each], validate=True) for each in (2, 3, 4))
    if not _LEAST_ITERATIONS <= int(match[1]) <= MOST_ITERATIONS:
        raise ValueError("keys of SCRAM-SHA-256 with an odd number of iterations")
    return Keys(salt, int(match[1]), stored, server)


def make_keys(password: bytes, salt: bytes, iterations: int = ITERATIONS) -> Keys:
    """The keys of a password."""
    salted = hashlib.pbkdf2_hmac("sha256", password_octets(password), salt, iterations)
    stored = hashlib.sha256(_mac(salted, b"Client Key")).digest()
    return Keys(salt, iterations, stored, _mac(salted, b"Server Key"))


def unknown_keys(secret: bytes, user: bytes, iterations: int) -> Keys:
    """Keys that no password has, the same each time: a stranger does not learn who exists."""
    salt = _mac(secret, b"salt" + user)[:16]
    return Keys(salt, iterations, _mac(secret, b"stored" + user), _mac(secret, b"server" + user))


class Dialogue:
    """One login: :meth:`first`, then :meth:`challenge` with the user's keys, then :meth:`final`.

    `nonce` is ours, random.
    """

    def __init__(self, nonce: bytes) -> None:
        self._nonce = nonce
        self._header = self._bare = self._server_first = b""
        self._keys: Keys | None = None

    def first(self, message: bytes) -> tuple[bytes, bytes]:
        """Who wants to log in, and as whom (empty: as itself).  Raises ScramError."""
        match = _FIRST.match(message)
        if match is None or match[3].startswith(b"m="):
            raise ScramError("no client-first-message")
        self._header = message[: match.start(3)]
        self._bare = match[3]
        self._nonce = match[5] + self._nonce
        return _name(match[4]), _name(match[2] or b"")

    def challenge(self, keys: Keys) -> bytes:
        """The server-first-message."""
        self._keys = keys
        salt = base64.b64encode(keys.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, keys.iterations)
        return self._server_first

    def final(self, message: bytes) -> bytes | None:
        """The server-final-message, None for a wrong password.  Raises ScramError."""
        match = _FINAL.match(message)
        if match is None or self._keys is None:
            raise ScramError("no client-final-message")
        if match[3] != self._nonce or _octets(match[2]) != self._header:
            raise ScramError("another nonce, or channel binding")
        said = b",".join((self._bare, self._server_first, match[1]))
        signature = _mac(self._keys.stored, said)
        proof = _octets(match[4])
        client = bytes(one ^ two for one, two in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client).digest(), self._keys.stored):
            return None
        return b"v=" + base64.b64encode(_mac(self._keys.server, said))


def _name(text: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            raise ScramError("a bad saslname")
        return b"," if match[1] == b"2C" else b"="

    return _ESCAPE.sub(plain, text)


def _octets(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ScramError("bad base64") from error


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")
