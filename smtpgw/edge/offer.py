"""What a client is greeted with, and what EHLO and LHLO announce."""

from __future__ import annotations

import functools
import re

from smtpgw.edge import forwarded
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.road import Answer

EXTENSIONS = ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN")

SILENT = "SILENT-DISCARD"
"""A word among the keywords to discard: the log says nothing of them."""


_KEPT = 200
"""Answers of a kind that are kept: a listener has one or two of each."""


def greeting(options: EdgeOptions) -> Answer:
    """The banner."""
    kind = "LMTP" if options.dialogue.lmtp else "ESMTP"
    return _greeting(options.banner or f"{options.myhostname} {kind} {options.mail_name}")


@functools.lru_cache(_KEPT)
def _greeting(text: str) -> Answer:
    return Answer(220, "", text)


@functools.lru_cache(_KEPT)
def welcomed(myhostname: str, offer: tuple[str, ...]) -> tuple[Answer, frozenset[str]]:
    """The answer to a hello with all that is offered, and the keywords that are announced so."""
    announced = frozenset(each.partition(" ")[0] for each in offer)
    return Answer(250, "", "\n".join((myhostname, *offer))), announced


async def offered(
    options: EdgeOptions, client: bytes, peer: bytes, *, tls: bool
) -> tuple[str, ...]:
    """The keywords, with what they take, for a client at this address, who is really at that of
    `peer`; `tls` if it is on.

    Raises :class:`smtpgw.tables.table.Unavailable`.
    """
    said = options.dialogue
    tls_too = options.security is not None and not tls and not options.tls_wrapper
    return _keywords(
        options.content.message_size_limit, said.smtputf8, said.vrfy and not said.lmtp,
        options.etrn, tls_too, bool(await said.xclient.match(client)),
        bool(await said.xforward.match(peer)), await discarded(options, client),
    )  # fmt: skip


@functools.lru_cache(_KEPT)
def _keywords(
    size: int,
    smtputf8: bool,
    vrfy: bool,
    etrn: bool,
    starttls: bool,
    xclient: bool,
    xforward: bool,
    without: frozenset[str],
) -> tuple[str, ...]:
    found = ["PIPELINING", f"SIZE {size}"]
    found += (each for each in EXTENSIONS if each != "SMTPUTF8" or smtputf8)
    if vrfy:
        found.append("VRFY")
    if etrn:
        found.append("ETRN")
    if starttls:
        found.append("STARTTLS")
    if xclient:
        found.append(" ".join(("XCLIENT", *forwarded.XCLIENT)))
    if xforward:
        found.append(" ".join(("XFORWARD", *forwarded.XFORWARD)))
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
