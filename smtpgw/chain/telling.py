"""A mail whose dialogue is over, told to milters as if it were held now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from milterd.core.decision import Verdict
from milterd.core.mail import Envelope, Session
from smtpgw.chain.chain import Chain
from smtpgw.chain.results import StageResult


async def stages(
    chain: Chain, session: Session, envelope: Envelope, macros: Mapping[str, bytes]
) -> AsyncIterator[StageResult]:
    """The events before the content, each with what the milters say to it."""
    yield await chain.connect(session)
    yield await chain.helo(session.helo, session.macros)
    yield await chain.mail(
        envelope.sender, envelope.sender_args, macros, direction=session.direction
    )
    for each in envelope.recipients:
        result = await chain.rcpt(each.address, each.args, {"rcpt_mailer": b"smtp"})
        # One recipient cannot be refused here, and the others are not to suffer for good.
        yield replace(result, verdict=Verdict.TEMPFAIL) if result.refused else result
    yield await chain.data()
