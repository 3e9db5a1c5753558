"""Logins by the password file: PLAIN (RFC 4616), LOGIN and SCRAM-SHA-256 (RFC 7677)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from smtpgw.edge.auth import Challenge, Circumstances, Exchange, Failure, Mechanism, Step, Success
from smtpgw.sasl.file import scram
from smtpgw.sasl.file.entries import Entry
from smtpgw.sasl.file.judge import FileOptions, Judge, TooBusy
from smtpgw.sasl.file.scram import ScramError
from smtpgw.sasl.file.store import FileError

LONGEST_PASSWORD = 4096
"""Octets; more than any that is one."""

_PLAIN = Mechanism("PLAIN", frozenset({"plaintext"}))
_LOGIN = Mechanism("LOGIN", frozenset({"plaintext"}))
_SCRAM = Mechanism(scram.NAME, frozenset({"mutual-auth"}))

_WRONG = "wrong password"
_UNKNOWN = "no such user"


class FileAuthenticator:
    """An :class:`~smtpgw.edge.auth.Authenticator`.  `random` gives so many random octets."""

    def __init__(
        self,
        options: FileOptions,
        log: FilteringBoundLogger,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._judge, self._log, self._random = Judge(options, log), log, random

    async def mechanisms(self) -> tuple[Mechanism, ...]:
        """None without a file: nobody can log in then.  SCRAM if anybody has keys for it."""
        try:
            found = await self._judge.entries()
        except (FileError, TooBusy) as error:
            self._log.error("the password file cannot be used", reason=str(error))
            return (_PLAIN, _LOGIN)
        if found is None:
            return ()
        return (_PLAIN, _LOGIN, *((_SCRAM,) if found.scram is not None else ()))

    def exchange(self, mechanism: str, _circumstances: Circumstances, /) -> Exchange:
        """A new login."""
        if mechanism == scram.NAME:
            return _Scram(self._judge, self._random)
        return _Plain(self._judge) if mechanism == "PLAIN" else _Login(self._judge)

    def retire(self) -> None:
        """No new session comes here: give back the threads; who is still here makes them anew."""
        self._judge.close()

    async def close(self) -> None:
        """Give back the threads."""
        self._judge.close()


class _Password:
    """What PLAIN and LOGIN have in common."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def _check(self, user: bytes, password: bytes) -> Step:
        """Whether that is the user's password."""
        try:
            full, entry = await self._judge.find(user)
            if len(password) > LONGEST_PASSWORD:
                return Failure("too long a password", _known(entry))
            if await self._judge.fits(entry, password):
                return Success(full)
        except (FileError, TooBusy) as error:
            return Failure(str(error), temporary=True)
        return Failure(_UNKNOWN if entry is None else _WRONG, _known(entry))

    def end(self) -> None:
        """Nothing is kept."""


def _known(entry: Entry | None) -> bytes:
    """The name for the log: only one that is a user's, for people type passwords there too."""
    return b"" if entry is None else entry.name


class _Plain(_Password):
    async def begin(self, initial: bytes | None) -> Step:
        """The whole response may come at once."""
        return Challenge(b"") if initial is None else await self.respond(initial)

    async def respond(self, response: bytes) -> Step:
        """authzid NUL authcid NUL password."""
        parts = response.split(b"\0")
        if len(parts) != 3:
            return Failure("malformed response")
        authorize, user, password = parts
        if authorize not in (b"", user):
            return Failure("nobody may act for another")
        return await self._check(user, password)


class _Login(_Password):
    """Never written down as a standard: two questions."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(judge)
        self._user = b""

    async def begin(self, initial: bytes | None) -> Step:
        """The name may come at once."""
        return await self.respond(initial) if initial else Challenge(b"Username:")

    async def respond(self, response: bytes) -> Step:
        """The name, then the password."""
        if self._user:
            return await self._check(self._user, response)
        if not response:
            return Failure("no name")
        self._user = response
        return Challenge(b"Password:")


class _Scram:
    """The server's signature goes out as a challenge, for SMTP's 235 carries no data (RFC 4954
    section 4): the client answers it with nothing."""

    def __init__(self, judge: Judge, random: Callable[[int], bytes]) -> None:
        self._judge = judge
        self._dialogue = scram.Dialogue(base64.b64encode(random(18)))
        self._step: Callable[[bytes], Awaitable[Step]] = self._first
        self._user = self._log_name = b""
        self._known = False

    async def begin(self, initial: bytes | None) -> Step:
        """The client speaks first."""
        return Challenge(b"") if initial is None else await self.respond(initial)

    async def respond(self, response: bytes) -> Step:
        """One message after the other."""
        try:
            return await self._step(response)
        except ScramError as error:
            return Failure(str(error))
        except (FileError, TooBusy) as error:
            return Failure(str(error), temporary=True)

    async def _first(self, response: bytes) -> Step:
        user, authorize = self._dialogue.first(response)
        if authorize not in (b"", user):
            return Failure("nobody may act for another")
        found = await self._judge.entries()
        usual = None if found is None else found.scram
        if usual is None:
            return Failure("nobody can log in by SCRAM any more", temporary=True)
        self._user, entry = await self._judge.find(user)
        self._log_name = _known(entry)
        keys = entry.scram if entry is not None else None
        self._known = keys is not None
        self._step = self._final
        secret = hashlib.sha256(usual.server).digest()
        strangers = scram.unknown_keys(secret, self._user or user, usual.iterations)
        return Challenge(self._dialogue.challenge(keys or strangers))

    async def _final(self, response: bytes) -> Step:
        said = self._dialogue.final(response)
        if said is None or not self._known:
            return Failure(_WRONG if self._known else _UNKNOWN, self._log_name)
        self._step = self._confirmed
        return Challenge(said)

    async def _confirmed(self, response: bytes) -> Step:
        return Failure("a response where none is due") if response else Success(self._user)

    def end(self) -> None:
        """Nothing is kept."""
