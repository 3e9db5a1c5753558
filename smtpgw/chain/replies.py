"""The SMTP replies that milter verdicts turn into, and a milter's own reply made safe.

The standard texts are Postfix's (milter8.c).  A milter's text reaches the client
only as printable ASCII on one line.
"""

from __future__ import annotations

from types import MappingProxyType

from milterd.core.decision import Reply
from milterd.wire import replytext
from milterd.wire.errors import PeerError

REJECT = Reply(550, "5.7.1", "Command rejected")
TEMPFAIL = Reply(451, "4.7.1", "Service unavailable - try again later")
SHUTDOWN = Reply(421, "4.7.0", "Server closing connection")
UNAVAILABLE = MappingProxyType(
    {
        "tempfail": Reply(451, "4.7.1", "Service unavailable - try again later"),
        "reject": Reply(550, "5.5.0", "Service unavailable"),
        "shutdown": Reply(421, "4.7.1", "Service unavailable - try again later"),
    }
)

TEXT_LIMIT = 490
"""Octets of text that fit in a reply line of 512 (RFC 5321 section 4.5.3.1.5)."""


def parse_reply(text: bytes) -> Reply:
    """The Reply in a milter's REPLYCODE, its lines joined by a space.

    An enhanced status code of the same class must be there, as in Postfix.
    Raises PeerError for what is not such a reply.
    """
    parsed = replytext.parse_reply(text)
    if not parsed.enhanced:
        raise PeerError("reply without an enhanced status code")
    return Reply(parsed.code, parsed.enhanced, parsed.text[:TEXT_LIMIT])
