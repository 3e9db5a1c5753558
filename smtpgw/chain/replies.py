"""The SMTP replies that milter verdicts turn into, and a milter's own reply made safe.

The standard texts are Postfix's (milter8.c).  A milter's text reaches the client
only as printable ASCII, in the lines it was given in.
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
    """The Reply in a milter's REPLYCODE, line by line.

    Where the milter gave no enhanced status code, it is that of a refusal by
    policy (RFC 3463 section 3.8).  Raises PeerError for what is no 4xx or 5xx
    reply, or has no text.
    """
    parsed = replytext.parse_reply(text)
    enhanced = parsed.enhanced or f"{parsed.code // 100}.7.1"
    if not parsed.enhanced and not parsed.text.strip():
        raise PeerError("reply without a text")
    if not parsed.text.strip():
        return Reply(parsed.code, enhanced, "Refused by policy")
    return Reply(parsed.code, enhanced, "\n".join(each[:TEXT_LIMIT] for each in parsed.lines))
