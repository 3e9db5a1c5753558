"""The seam between the edge and all that judges and keeps a mail.

The edge speaks SMTP; it asks a :class:`SessionRoad` at each step and sends what
it answers.  None means "go on, with the usual reply".  Whatever a step raises
becomes 451 with a trace id, so a road need not catch what it does not expect.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from milterd.core.decision import Reply
from milterd.core.mail import Client, Envelope
from milterd.core.values import value
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import Path
from smtpgw.edge.content import Content
from smtpgw.edge.names import PeerName

MAX_LINE = 510
"""Octets of a reply line before its CRLF (RFC 5321 section 4.5.3.1.5)."""

_SHORT = 100
"""Characters of a text that is not too long for a line, whatever its octets are."""

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")


@value
class Answer:
    """An SMTP reply (RFC 5321 section 4.2, RFC 2034), and whether to close after it.

    `enhanced` may be empty (banner, EHLO, 354).  `text` may hold several lines,
    parted by LF, each sent as a line of the reply.  `reference` is what the decision
    behind it is found by; it ends the last line, unless the words are somebody else's and
    stay as they are (`verbatim`).  Raises ValueError where code and enhanced code disagree
    or the text holds another control character.
    """

    code: int
    enhanced: str
    text: str
    hangup: bool = False
    reference: str = ""
    verbatim: bool = False
    positive: bool = field(init=False, repr=False, compare=False)
    """Whether the client got what it asked for (2xx, 3xx)."""
    octets: bytes = field(default=b"", init=False, repr=False, compare=False)
    """What :meth:`encode` makes of it, once it was asked."""

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise ValueError(f"reply code {self.code}")
        if self.enhanced and not _go_together(self.code, self.enhanced):
            raise ValueError(f"enhanced code {self.enhanced!r} does not go with {self.code}")
        # What is printable holds none; the search is for the rest, which may be innocent too.
        if not self.text.isprintable() and _CONTROL.search(self.text) is not None:
            raise ValueError("reply text holds a control character")
        self.positive = self.code < 400  # type: ignore[misc]  # it is being made

    @classmethod
    def of(cls, reply: Reply, *, hangup: bool = False) -> Answer:
        """The answer that sends a policy's or a milter's reply."""
        return cls(reply.code, reply.enhanced, reply.text, hangup)

    def softened(self) -> Answer:
        """The same, temporary where it was final (soft_bounce)."""
        if self.code < 500:
            return self
        enhanced = self.enhanced and f"4{self.enhanced[1:]}"
        return replace(self, code=self.code - 100, enhanced=enhanced)

    def encode(self) -> bytes:
        """The reply as it goes over the wire, every line with its code and CRLF,
        cut where RFC 5321 section 4.5.3.1.5 wants a reply line to end."""
        if not self.octets:  # most answers are constants, and are said often
            self.octets = self._encoded()  # type: ignore[misc]  # of what does not change
        return self.octets

    def _encoded(self) -> bytes:
        lead = f"{self.enhanced} " if self.enhanced else ""
        if len(self.text) < _SHORT and "\n" not in self.text and not self.reference:
            return f"{self.code} {lead}{self.text}\r\n".encode("utf-8", "replace")
        lines = self.text.split("\n")
        seps = "-" * (len(lines) - 1) + " "
        raw = (f"{self.code}{sep}{lead}{each}" for sep, each in zip(seps, lines, strict=True))
        octets = [each.encode("utf-8", "replace")[:MAX_LINE] for each in raw]
        if self.reference and not self.verbatim:
            end = f" [{self.reference}]".encode()
            octets[-1] = octets[-1][: MAX_LINE - len(end)] + end
        return b"".join(each + b"\r\n" for each in octets)


@functools.lru_cache(1000)
def _go_together(code: int, enhanced: str) -> bool:
    """Whether it is an enhanced code, of the reply code's class."""
    return _ENHANCED.match(enhanced) is not None and enhanced[0] == str(code)[0]


def _nothing_pending() -> bool:
    return False


@value
class Connection:
    """Who connected, and where to.

    `local_address` and `local_port` are ours (milter macros {daemon_addr} and
    {daemon_port}); `session` names this connection in the log.  `pending` says whether
    the client has sent more than was read; `stressed`, whether the session goes by the
    shorter limits; `peer`, what the name service says of the client, None while that is not
    known.
    """

    listener: str
    client: Client
    local_address: bytes = b""
    local_port: int = 0
    session: str = ""
    pending: Callable[[], bool] = _nothing_pending
    stressed: bool = False
    peer: PeerName | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """What the edge itself says no to, before or beside any road: the verb (empty: on connecting),
    what was known of the client then, and who has decided it, with more of why."""

    connection: Connection
    verb: str
    answer: Answer
    helo: bytes = b""
    sender: bytes = b""
    recipient: bytes = b""
    source: str = "edge"
    facts: Mapping[str, object] = field(default_factory=dict)


Note = Callable[[Refused], str]
"""Keeps a refusal of the edge for whoever asks later; the reference to find it by, or nothing."""


def no_note(_refused: Refused) -> str:
    """Keep nothing."""
    return ""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A client's certificate: common names of subject and issuer, digests of the certificate and
    of its public key as pairs of hexadecimal digits with colons, and whether a CA that we trust
    vouches for it."""

    subject: str
    issuer: str
    fingerprint: str
    public_key_fingerprint: str
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Tls:
    """What was negotiated: protocol version, cipher name, and its bits; the name asked for by
    SNI; the client's certificate, if it has shown one."""

    version: str
    cipher: str
    bits: int
    server_name: str = ""
    certificate: PeerCertificate | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """Who has logged in, and by which mechanism (RFC 4954)."""

    name: bytes
    method: str = "PLAIN"

    @property
    def anonymous(self) -> bool:
        """Whether it says of nobody who that is (RFC 4505), and so gives no rights."""
        return self.method.upper() == "ANONYMOUS"


@value
class Hello:
    """EHLO, HELO or LHLO: the name given, which verb, TLS facts, who has logged in."""

    name: bytes
    esmtp: bool
    tls: Tls | None = None
    login: Login | None = None
    lmtp: bool = False


Attempt = Literal["connection", "auth", "starttls", "newtls"]
"""A connection before anything else; AUTH and STARTTLS before they are looked at; a full TLS
handshake after its end, also one that failed."""


class SessionRoad(Protocol):
    """One SMTP session's way through policy, milters and queue.

    Calls come one at a time and in the order of the dialogue; after each
    message, refused or not, after `reset` and after a new `helo` the transaction
    is over.  An answer of 4xx or 5xx refuses the command, `hangup` closes too.
    """

    async def connect(self) -> Answer | None:
        """The client is there.  A positive answer replaces the banner."""
        ...

    async def helo(self, hello: Hello) -> Answer | None:
        """EHLO or HELO; again after STARTTLS.  Ends a transaction."""
        ...

    async def attempt(self, what: Attempt) -> Answer | None:
        """The client tries something that is limited; an answer says that it was once too
        often.  Those to `connection` and `newtls` close the connection."""
        ...

    async def login(self, login: Login | None) -> Answer | None:
        """AUTH has succeeded; an answer says that it counts for nothing.  None: TLS has begun, and
        a login before it counts no more."""
        ...

    async def readmit(self, connection: Connection, login: Login | None) -> Answer | None:
        """XCLIENT: from now on the client is this one, as if it had just connected and, with
        `login`, logged in."""
        ...

    async def forwarded(self, facts: Mapping[str, bytes]) -> Answer | None:
        """XFORWARD: where the next mail came from, as a server before us says, by the names of
        XFORWARD_README; for the log and for policies, until the transaction is over."""
        ...

    async def mail(self, sender: Path, params: MailParams) -> Answer | None:
        """MAIL: a transaction begins, unless it is refused."""
        ...

    async def rcpt(self, recipient: Path, params: RcptParams) -> Answer | None:
        """RCPT: a recipient is added, unless it is refused."""
        ...

    async def data(self) -> Answer | None:
        """DATA, or the first BDAT, before anything of the message is read."""
        ...

    async def message(self, envelope: Envelope, content: Content) -> Answer:
        """The message is complete.  A positive answer means it is committed.

        Runs in a task of its own that a lost connection does not cancel.
        `content` is closed by the edge once this returns.
        """
        ...

    async def vrfy(self, recipient: Path) -> Answer | None:
        """VRFY: why RCPT would be refused, if it would."""
        ...

    async def etrn(self, node: str, *, below: bool) -> Answer | None:
        """ETRN: deliver what waits for this domain, `below` those below it too.

        None where it cannot be known, 251 or 252 where it is done, 459 where it may not be."""
        ...

    async def unknown(self, line: bytes) -> Answer | None:
        """A command that is not one of ours; an answer replaces the usual 500."""
        ...

    async def reset(self) -> None:
        """RSET, or a transaction given up (refused or incomplete message, lost client)."""
        ...

    async def close(self) -> None:
        """The session is over; the last call, and always made."""
        ...


class Road(Protocol):
    """Where sessions get their road."""

    def session(self, connection: Connection) -> SessionRoad:
        """A road for a new connection."""
        ...
