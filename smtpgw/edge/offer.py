"""What EHLO and LHLO announce."""

from __future__ import annotations

import re

from smtpgw.edge import forwarded
from smtpgw.edge.options import EdgeOptions

EXTENSIONS = ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN")

SILENT = "SILENT-DISCARD"
"""A word among the keywords to discard: the log says nothing of them."""


async def offered(
    options: EdgeOptions, client: bytes, peer: bytes, *, tls: bool
) -> tuple[str, ...]:
    """The keywords, with what they take, for a client at this address, who is really at that of
    `peer`; `tls` if it is on.

    Raises :class:`smtpgw.tables.table.Unavailable`.
    """
    said = options.dialogue
    found = ["PIPELINING", f"SIZE {options.content.message_size_limit}"]
    found += (each for each in EXTENSIONS if each != "SMTPUTF8" or said.smtputf8)
    if said.vrfy and not said.lmtp:
        found.append("VRFY")
    if options.etrn:
        found.append("ETRN")
    if options.security is not None and not tls and not options.tls_wrapper:
        found.append("STARTTLS")
    if await said.xclient.match(client):
        found.append(" ".join(("XCLIENT", *forwarded.XCLIENT)))
    if await said.xforward.match(peer):
        found.append(" ".join(("XFORWARD", *forwarded.XFORWARD)))
    without = await discarded(options, client)
    return tuple(each for each in found if each.partition(" ")[0] not in without)


async def discarded(options: EdgeOptions, client: bytes) -> frozenset[str]:
    """The keywords that this client does not hear.  Raises Unavailable."""
    said = options.dialogue
    if said.discard_for is not None and client:
        value = await said.discard_for(client)
        if value is not None:
            words = re.split(r"[\s,]+", value.decode("ascii", "replace"))
            return frozenset(each.upper() for each in words if each)
    return said.discard
