"""What an MTA offers a milter, and what follows from the milter's answer.

A program negotiates alike on each of its connections: what the same answer to the same offer comes
to is found out once, and is one object from then on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from milterd.wire import messages as m
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    OLDEST_VERSION,
    PROTOCOL_OF_VERSION,
    Actions,
    Protocol,
    Stage,
)
from milterd.wire.errors import PeerError
from milterd.wire.states import (
    BEFORE_END,
    CommandType,
    ReplyType,
    allowed_edits,
    unanswered_commands,
    unsent_commands,
)

NOT_OFFERED = "protocol flags that were not offered"
"""The violation after which Sendmail closes; Postfix goes on."""
_USUAL = 1024
"""Octets of an answer up to which what it comes to is remembered."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What was agreed; `macros` are the milter's own lists, empty where it has none."""

    version: int
    actions: Actions
    protocol: Protocol
    macros: Mapping[Stage, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """What follows from an answer.  `violations` are what should not be in it and was let pass;
    a `quiet` milter answers nothing before the end of a message."""

    agreed: Negotiated
    unsent: frozenset[CommandType] = frozenset()
    unanswered: frozenset[CommandType] = frozenset()
    allowed: frozenset[ReplyType] = frozenset()
    violations: tuple[str, ...] = ()
    leading_space: bool = False
    quiet: bool = False


NOTHING_YET = Agreement(Negotiated(OLDEST_VERSION, Actions.NONE, Protocol.NONE))


class Offer:
    """An offer as it is made, be it with bits and versions that nobody knows."""

    def __init__(self, made: m.Negotiate) -> None:
        self.made = made

    @functools.cached_property
    def octets(self) -> bytes:
        """The frame.  Raises LocalError for numbers that do not fit."""
        return self.made.encode()

    def answered(self, payload: bytes) -> Agreement:
        """What an answer comes to (libmilter's and Postfix's rules); PeerError for a bad one."""
        if len(payload) <= _USUAL:
            return _usually_answered(self, payload)
        return _answered(self, payload)


@functools.lru_cache(maxsize=64)
def usual_offer(version: int, actions: Actions, protocol: Protocol) -> Offer:
    """These, but for what the version does not have."""
    return Offer(
        m.Negotiate(
            version, actions & ACTIONS_OF_VERSION[version], protocol & PROTOCOL_OF_VERSION[version]
        )
    )


def _answered(offer: Offer, payload: bytes) -> Agreement:
    made, reply = offer.made, m.decode_negotiate(payload)
    violations = []
    if not OLDEST_VERSION <= reply.version <= made.version:
        raise PeerError(f"version {reply.version} in answer to {made.version}")
    # As plain numbers: inverted flags lose the bits that have no name.
    if int(reply.actions) & ~int(made.actions):
        raise PeerError(f"actions {reply.actions:#x} in answer to {made.actions:#x}")
    if int(reply.protocol) & ~int(made.protocol):
        violations.append(NOT_OFFERED)
    if reply.macros and Actions.SETSYMLIST not in made.actions:
        violations.append("macro lists that were not offered")
    protocol = reply.protocol & made.protocol
    unsent, unanswered = unsent_commands(protocol, reply.version), unanswered_commands(protocol)
    return Agreement(
        Negotiated(reply.version, reply.actions, protocol, reply.macros),
        unsent,
        unanswered,
        allowed_edits(reply.actions),
        tuple(violations),
        Protocol.HDR_LEADSPC in protocol,
        unanswered | unsent >= BEFORE_END,
    )


_usually_answered = functools.lru_cache(maxsize=64)(_answered)
