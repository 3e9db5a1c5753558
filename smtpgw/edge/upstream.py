"""Who a load balancer says the client is, before anything else is read or said."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from milterd.core.mail import Client, Family
from smtpgw.edge.conversation import Conversation, Goodbye
from smtpgw.edge.dialogue_options import UpstreamOptions
from smtpgw.edge.proxy import LONGEST, Header, ProxyError, parse
from smtpgw.edge.road import Answer

NO_HEADER = Answer(421, "4.3.2", "No PROXY header", hangup=True)
"""What there is to say to a client whose header has not come yet."""


async def header_of(
    conversation: Conversation,
    client: Client,
    upstream: UpstreamOptions,
    log: FilteringBoundLogger,
) -> Header:
    """The header, taken from the inbox.

    Raises Goodbye, without a word to the client, for one that is not believed, for what is no
    header, and where none comes in time.
    """
    local = client.family is Family.UNIX
    if not (local or await upstream.trusted.match(client.address)):
        log.warning("PROXY protocol from a stranger")
        raise Goodbye
    try:
        header = await conversation.preamble(parse, upstream.patience, LONGEST)
    except ProxyError as error:
        log.warning("PROXY header not taken", reason=str(error))
        raise Goodbye from error
    conversation.inbox.take(header.size)
    return header
