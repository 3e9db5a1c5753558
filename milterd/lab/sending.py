"""Messages offered to a milter one after the other, each with what came of it.

What is wrong with one message, or with the milter while it has one, is that message's; the
others go on, on one connection as long as it holds.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace

from milterd.core.mail import Envelope, Mail, Session, parse_message
from milterd.lab.client import MilterError, Played, conversation, play
from milterd.lab.link import Patience
from milterd.lab.mailbox import Message
from milterd.lab.mta_rules import Rules


@dataclass(frozen=True, slots=True)
class Sent:
    """One message: what came of it, or the milter's fault, or the message's own."""

    name: str
    played: Played | None = None
    error: MilterError | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to send: to which milter, as whom, how patiently; `together` on one connection."""

    address: str
    session: Session
    envelope: Envelope
    rules: Rules
    version: int
    patience: Patience
    together: bool = False


async def send_all(found: Iterable[Message], manner: Manner) -> AsyncIterator[Sent]:
    """Send each, in order."""
    rest = iter(found)
    for message in rest:
        mail, fault = _mail(message, manner)
        if fault:
            yield Sent(message.name, fault=fault)
        elif manner.together:
            async for each in _together(message, rest, manner):
                yield each
        else:
            yield await _alone(message.name, mail, manner)


async def _together(
    message: Message, rest: Iterator[Message], manner: Manner
) -> AsyncIterator[Sent]:
    """This message and the others on one connection, until the milter breaks it."""
    try:
        async with conversation(
            manner.address,
            manner.session,
            version=manner.version,
            patience=manner.patience,
            rules=manner.rules,
        ) as talk:
            for message in itertools.chain([message], rest):  # noqa: B020 - it is the one to blame
                mail, fault = _mail(message, manner)
                yield (
                    Sent(message.name, fault=fault)
                    if fault
                    else Sent(message.name, await talk.offer(mail))
                )
    except MilterError as error:
        yield Sent(message.name, error=error)


async def _alone(name: str, mail: Mail, manner: Manner) -> Sent:
    try:
        return Sent(name, await _play(mail, manner))
    except MilterError as error:
        return Sent(name, error=error)


async def _play(mail: Mail, manner: Manner) -> Played:
    return await play(
        manner.address,
        mail,
        version=manner.version,
        patience=manner.patience,
        rules=manner.rules,
    )


def _mail(message: Message, manner: Manner) -> tuple[Mail, str]:
    """The mail, and what is wrong with it."""
    if message.fault:
        return Mail(), message.fault
    parsed = parse_message(message.octets)
    nul = next((each for each in parsed.headers if b"\0" in each.value), None)
    if nul is not None:
        name = nul.name.decode("ascii")
        return parsed, f"the field {name} holds a NUL, which no milter can be sent"
    return replace(parsed, session=manner.session, envelope=manner.envelope), ""
