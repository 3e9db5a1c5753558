"""What a notification tells, and who wants to hear it (RFC 3461 sections 4.1 and 5.2)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from smtpgw.dsn import envelope
from smtpgw.queue.store import Content


class Action(enum.Enum):
    """What became of a recipient; the values are those of RFC 3464 section 2.3.3."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class News(enum.Enum):
    """Kinds of notification: one mail tells of one kind.  The values are for the log.

    CLEARED is Postfix's confirm_delay_cleared: who was told of a delay hears of its end.
    RESOURCE and SOFTWARE go to postmasters only.
    """

    FAILURE = "failed"
    DELAY = "delayed"
    SUCCESS = "delivered"
    CLEARED = "delay cleared"
    RESOURCE = "resource"
    SOFTWARE = "software"


_ASKS = {
    News.FAILURE: b"FAILURE",
    News.DELAY: b"DELAY",
    News.SUCCESS: b"SUCCESS",
    News.CLEARED: b"DELAY",
}
_UNASKED = frozenset({b"FAILURE", b"DELAY"})
"""What a sender hears who gave no NOTIFY (RFC 3461 section 4.1)."""

NOTICE_CLASSES = (
    "bounce",
    "2bounce",
    "data",
    "delay",
    "policy",
    "protocol",
    "resource",
    "software",
)
"""Postfix's names for what a postmaster may be told (notify_classes)."""


@dataclass(frozen=True, slots=True)
class NoticeOptions:
    """What the postmaster is told, and where, by Postfix's names (postconf(5)).

    An address without a domain is one of `myhostname`.  A notice comes from
    `double_bounce_sender`, and one that cannot be delivered is thrown away.
    """

    notify_classes: frozenset[str] = frozenset({"resource", "software"})
    bounce_notice_recipient: str = "postmaster"
    twobounce_notice_recipient: str = "postmaster"
    delay_notice_recipient: str = "postmaster"
    error_notice_recipient: str = "postmaster"
    double_bounce_sender: str = "double-bounce"


@dataclass(frozen=True, slots=True)
class DsnOptions:
    """`bounce_size_limit`: octets of a notification, the original's part shrinks to fit.

    `confirm_delay_cleared`: tell who was told of a delay that it is over.
    `lmtp_assume_final`: call it "delivered", not "relayed", when an LMTP server that does
    not offer DSN takes a mail.
    """

    myhostname: str = "localhost"
    bounce_size_limit: int = 50_000
    confirm_delay_cleared: bool = False
    lmtp_assume_final: bool = False
    notices: NoticeOptions = field(default_factory=NoticeOptions)

    def qualified(self, address: str) -> bytes:
        """An address of the settings, with our name if it has no domain."""
        return (address if "@" in address else f"{address}@{self.myhostname}").encode()


@dataclass(frozen=True, slots=True)
class Reported:
    """One recipient and what became of it; `text` are the peer's words if `spoken`."""

    address: bytes
    args: tuple[bytes, ...]
    action: Action
    enhanced: str
    text: str
    remote: str = ""
    spoken: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Recipients of one mail that met the same kind of end.

    Times are wall seconds; `retry_until` goes with delays, `attempted` is None where
    nothing was attempted now.  `helo` is what the client called itself.
    """

    queue_id: str
    sender: bytes
    sender_args: tuple[bytes, ...]
    content: Content
    arrived: float
    recipients: tuple[Reported, ...]
    helo: bytes = b""
    attempted: float | None = None
    retry_until: float | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """To whom a notification goes, from whom, and whether the whole original may go along."""

    news: News
    to: bytes
    sender: bytes = b""
    copy: bool = False
    full: bool = True


def wanted(sender: bytes, args: tuple[bytes, ...], news: News) -> bool:
    """Whether this sender wants to hear that of this recipient (RFC 3461 sections 4.1, 5.2)."""
    if not sender or news not in _ASKS:
        return False
    notify = envelope.notify(args)
    return _ASKS[news] in (_UNASKED if notify is None else notify)
