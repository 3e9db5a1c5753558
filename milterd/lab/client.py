"""Play an MTA to one milter with mails, and report what the milter said and what comes of it.

Every wait has a limit.  Whatever the milter does wrong (not there, silent, gone,
out of step) is a `MilterError`, and then no edit of it counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from milterd.core.mail import Mail, Session
from milterd.lab.conversation import (
    Conversation,
    Played,
    StageReply,
    settles,
    subject_of,
    verdict_of,
)
from milterd.lab.link import MilterError, Patience, Tap, connect
from milterd.lab.mta_rules import RULES, Rules
from milterd.wire.constants import NEWEST_VERSION

__all__ = [
    "Conversation",
    "MilterError",
    "Played",
    "StageReply",
    "conversation",
    "play",
    "settles",
    "subject_of",
    "verdict_of",
]

_POSTFIX = RULES["postfix"]


async def play(
    address: str,
    mail: Mail,
    *,
    version: int = NEWEST_VERSION,
    patience: Patience | None = None,
    tap: Tap | None = None,
    rules: Rules = _POSTFIX,
) -> Played:
    """Offer `mail` to the milter at `address` as the MTA of `rules` does, and end the connection.

    `address` is `unix:PATH` or `inet:PORT@HOST`.  Raises MilterError, and
    ValueError for an address that is none.
    """
    async with conversation(
        address, mail.session, version=version, patience=patience, tap=tap, rules=rules
    ) as talk:
        return await talk.offer(mail)


@asynccontextmanager
async def conversation(
    address: str,
    session: Session,
    *,
    version: int = NEWEST_VERSION,
    patience: Patience | None = None,
    tap: Tap | None = None,
    rules: Rules = _POSTFIX,
) -> AsyncIterator[Conversation]:
    """A session in which mails may be offered one after the other, on one connection.

    Raises what `play` does.
    """
    async with connect(
        address, patience=patience, version=version, macros_always=True, tap=tap
    ) as link:
        talk = Conversation(link, rules)
        await talk.begin(session)
        yield talk
        await talk.end()
