"""AUTH as a client (RFC 4954): which mechanism, and what is said by it.  Sans-I/O.

A password goes to the peer it is for and nowhere else: not into a repr, a log, an error.
Plaintext mechanisms come first where the connection may carry them, CRAM-MD5 (RFC 2195)
where it may not: it hides the password, but asks the peer to keep it readable.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

_PLAINTEXT = ("PLAIN", "LOGIN")
STEPS = 5
"""Challenges after which an exchange is no exchange any more."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are for one peer."""

    user: bytes
    password: bytes = field(repr=False)


class NoMechanism(Exception):  # noqa: N818 - the peer's offer, not an error of ours
    """Nothing the peer offers may be used here."""


class BadChallenge(Exception):  # noqa: N818 - the peer's fault
    """What the peer asks makes no sense."""


class Exchange:
    """One authentication.  `first` is what AUTH says; then :meth:`answer` each challenge."""

    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        self._mechanism, self._credentials, self._step = mechanism, credentials, 0
        self.first = f"AUTH {mechanism}".encode()
        if mechanism == "PLAIN":
            self.first += b" " + base64.b64encode(self._plain())

    def _plain(self) -> bytes:
        return b"\0%b\0%b" % (self._credentials.user, self._credentials.password)

    def answer(self, text: bytes) -> bytes:
        """The line for the text of a 334.  Raises :class:`BadChallenge`: say `*` then."""
        self._step += 1
        respond = _RESPONSES[self._mechanism]
        try:
            challenge = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            # LOGIN was never written down, and some peers ask for the name in plain words.
            if self._mechanism != "LOGIN":
                raise BadChallenge("challenge is not base64") from None
            challenge = b""
        return base64.b64encode(respond(self._credentials, challenge, self._step))

    def hide(self, words: bytes) -> bytes:
        """A peer's words without our secrets, which some peers repeat."""
        whole, password = self._plain(), self._credentials.password
        for form in (base64.b64encode(whole), whole, base64.b64encode(password), password):
            words = words.replace(form, b"(hidden)")
        return words


def _plain(credentials: Credentials, challenge: bytes, step: int) -> bytes:
    if challenge or step > 1:
        raise BadChallenge("PLAIN has no challenge")
    return b"\0%b\0%b" % (credentials.user, credentials.password)


def _login(credentials: Credentials, _challenge: bytes, step: int) -> bytes:
    if step > 2:
        raise BadChallenge("LOGIN has two questions")
    return credentials.user if step == 1 else credentials.password


def _cram_md5(credentials: Credentials, challenge: bytes, step: int) -> bytes:
    if step > 1 or not challenge:
        raise BadChallenge("CRAM-MD5 has one challenge")
    digest = hmac.new(credentials.password, challenge, "md5").hexdigest()
    return b"%b %b" % (credentials.user, digest.encode())


_RESPONSES: dict[str, Callable[[Credentials, bytes, int], bytes]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "CRAM-MD5": _cram_md5,
}
MECHANISMS = tuple(_RESPONSES)


def choose(offered: bytes, allowed: Iterable[str], security: Iterable[str]) -> str:
    """The mechanism to use out of the parameter of AUTH in an EHLO reply.

    `allowed` is smtp_sasl_mechanism_filter, empty for all.  Raises :class:`NoMechanism`.
    """
    words = offered.decode("ascii", "replace").upper().split()
    permitted = [each.upper() for each in allowed] or list(MECHANISMS)
    plaintext = "noplaintext" not in set(security)
    for each in MECHANISMS:
        fits = each in words and each in permitted
        if fits and (plaintext or each not in _PLAINTEXT):
            return each
    shown = ", ".join(words[:10]) or "nothing"
    why = "" if plaintext else ", and without TLS noplaintext leaves only CRAM-MD5"
    raise NoMechanism(f"the peer offers {shown}{why}")
