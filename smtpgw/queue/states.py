"""The states of a mail and of a recipient, and every legal move between them.

This table was written before the code that obeys it.  A store asks it before each
change and raises :class:`IllegalMove` for a pair that is not here.  `durable` says
what must be on the disk, synced, before `answer` may be given to anybody.
docs/queue.md draws it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class MailState(enum.Enum):
    """Where a mail stands.  The values are stored: never renumber them."""

    INCOMING = 0
    ACTIVE = 1
    DEFERRED = 2
    HOLD = 3
    CORRUPT = 4
    DONE = 5  # never stored: a mail that is done is not there any more
    QUARANTINE = 6
    RELEASING = 7
    AWAITING = 8


KEPT = frozenset({MailState.QUARANTINE, MailState.RELEASING, MailState.AWAITING})
"""States of mails that are in the quarantine, not in the queue."""


class RecipientState(enum.Enum):
    """What became of one recipient.  The values are stored: never renumber them."""

    PENDING = 0
    DEFERRED = 1
    DELIVERED = 2
    BOUNCED = 3
    EXPANDED = 4

    @property
    def settled(self) -> bool:
        """Whether nothing more will be tried for this recipient."""
        return self not in (RecipientState.PENDING, RecipientState.DEFERRED)


class MailEvent(enum.Enum):
    """What can happen to a mail."""

    ARRIVE = "arrive"
    ARRIVE_LEASED = "arrive to be delivered at once"
    ARRIVE_HELD = "arrive to be held"
    ARRIVE_CAUGHT = "arrive to be quarantined"
    ARRIVE_AWAITING = "arrive to be judged later"
    LEASE = "lease"
    LAPSE = "lease after the last one ran out"
    NOTE = "note some outcomes, go on"
    SETTLE_SOME = "settle, some left"
    SETTLE_HELD = "settle, some left, hold wanted"
    SETTLE_ALL = "settle, none left"
    HOLD = "hold"
    RELEASE = "release"
    FLUSH = "flush"
    REQUEUE = "requeue"
    DOOM = "ask for a bounce"
    DELETE = "delete"
    DAMAGE = "damage found"
    RECOVER = "recover at start"
    RECOVER_HELD = "recover at start, hold wanted"
    RECOVER_KILLER = "recover at start, workers crashed again and again"
    LET_GO = "release from quarantine"
    END_RELEASE = "pass the milters, or be caught again"
    PUT_OFF = "try to pass later"
    GIVE_UP = "pass too late"
    EXPIRE = "expire"
    DISPOSE = "delete from quarantine"


class RecipientEvent(enum.Enum):
    """What can happen to a recipient."""

    DELIVER = "deliver"
    DEFER = "defer"
    BOUNCE = "bounce"
    EXPAND = "expand"


class IllegalMove(Exception):  # noqa: N818 - the name says what happened
    """A move that is not in the table."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where a move leads, what must be durable first, and which answer that allows."""

    to: MailState
    durable: str
    answer: str


_S, _E = MailState, MailEvent
_ALL_OF_IT = "body file and its directory, then mail, recipients and decision in one transaction"
_ROUTED = "state, destination, due now, attempts forgotten"
_REASON = "state and reason, due now"
_PASSED = "the rows gone, what becomes of the mail there"

MAIL_MOVES: Mapping[tuple[MailState | None, MailEvent], Move] = MappingProxyType(
    {
        (None, _E.ARRIVE): Move(_S.INCOMING, _ALL_OF_IT, "250 to the client"),
        (None, _E.ARRIVE_LEASED): Move(
            _S.ACTIVE, f"{_ALL_OF_IT}, which holds the lease", "250 to the client, delivery begins"
        ),
        (None, _E.ARRIVE_HELD): Move(_S.HOLD, _ALL_OF_IT, "250 to the client"),
        (_S.INCOMING, _E.LEASE): Move(_S.ACTIVE, "the lease", "delivery may begin"),
        (_S.DEFERRED, _E.LEASE): Move(_S.ACTIVE, "the lease", "delivery may begin"),
        (_S.ACTIVE, _E.LAPSE): Move(_S.ACTIVE, "a new lease", "the old lease settles nothing"),
        (_S.ACTIVE, _E.NOTE): Move(_S.ACTIVE, "those outcomes", "never sent to them again"),
        (_S.ACTIVE, _E.SETTLE_SOME): Move(
            _S.DEFERRED, "all outcomes, DSNs, next attempt", "the lease ends"
        ),
        (_S.ACTIVE, _E.SETTLE_HELD): Move(_S.HOLD, "all outcomes, DSNs", "the lease ends"),
        (_S.ACTIVE, _E.SETTLE_ALL): Move(
            _S.DONE, "the rows gone, DSNs there", "the body file is unlinked"
        ),
        (_S.INCOMING, _E.HOLD): Move(_S.HOLD, "state and reason", "held"),
        (_S.DEFERRED, _E.HOLD): Move(_S.HOLD, "state and reason", "held"),
        (_S.ACTIVE, _E.HOLD): Move(_S.ACTIVE, "the wish", "held when this attempt ends"),
        (_S.HOLD, _E.HOLD): Move(_S.HOLD, "the new reason", "held"),
        (_S.HOLD, _E.RELEASE): Move(_S.DEFERRED, "state, due now", "released"),
        (_S.ACTIVE, _E.RELEASE): Move(_S.ACTIVE, "the wish taken back", "released"),
        (_S.INCOMING, _E.FLUSH): Move(_S.INCOMING, "due now", "flushed"),
        (_S.DEFERRED, _E.FLUSH): Move(_S.DEFERRED, "due now", "flushed"),
        (_S.INCOMING, _E.REQUEUE): Move(_S.INCOMING, _ROUTED, "requeued"),
        (_S.DEFERRED, _E.REQUEUE): Move(_S.INCOMING, _ROUTED, "requeued"),
        (_S.HOLD, _E.REQUEUE): Move(_S.INCOMING, _ROUTED, "requeued"),
        (_S.INCOMING, _E.DOOM): Move(_S.INCOMING, _REASON, "bounced at once"),
        (_S.ACTIVE, _E.DOOM): Move(_S.ACTIVE, "the reason", "bounced after this attempt"),
        (_S.DEFERRED, _E.DOOM): Move(_S.DEFERRED, _REASON, "bounced at once"),
        (_S.HOLD, _E.DOOM): Move(_S.DEFERRED, _REASON, "bounced at once"),
        (_S.INCOMING, _E.DELETE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.ACTIVE, _E.DELETE): Move(_S.DONE, "the rows gone", "deleted; a running attempt ends"),
        (_S.DEFERRED, _E.DELETE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.HOLD, _E.DELETE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.CORRUPT, _E.DELETE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.INCOMING, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
        (_S.ACTIVE, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
        (_S.DEFERRED, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
        (_S.HOLD, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
        (_S.CORRUPT, _E.DAMAGE): Move(_S.CORRUPT, "the new reason", "listed, never delivered"),
        (_S.ACTIVE, _E.RECOVER): Move(_S.DEFERRED, "state, due now", "unanswered ones sent again"),
        (_S.ACTIVE, _E.RECOVER_HELD): Move(_S.HOLD, "state", "held"),
        (_S.ACTIVE, _E.RECOVER_KILLER): Move(_S.HOLD, "state and reason", "held, the others go on"),
        (None, _E.ARRIVE_CAUGHT): Move(_S.QUARANTINE, _ALL_OF_IT, "250 to the client"),
        (None, _E.ARRIVE_AWAITING): Move(_S.AWAITING, _ALL_OF_IT, "250 to the client"),
        (_S.QUARANTINE, _E.LET_GO): Move(_S.RELEASING, "state, due now", "released"),
        (_S.RELEASING, _E.END_RELEASE): Move(_S.DONE, _PASSED, "the body file is unlinked"),
        (_S.RELEASING, _E.PUT_OFF): Move(_S.RELEASING, "the next try", "tried again then"),
        (_S.RELEASING, _E.GIVE_UP): Move(_S.QUARANTINE, "state and reason", "not released"),
        (_S.QUARANTINE, _E.EXPIRE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.QUARANTINE, _E.DISPOSE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.RELEASING, _E.DISPOSE): Move(_S.DONE, "the rows gone", "deleted; its release ends"),
        (_S.AWAITING, _E.LET_GO): Move(_S.RELEASING, "state, due now", "released"),
        (_S.AWAITING, _E.END_RELEASE): Move(_S.DONE, _PASSED, "the body file is unlinked"),
        (_S.AWAITING, _E.PUT_OFF): Move(_S.AWAITING, "the next try", "tried again then"),
        (_S.AWAITING, _E.GIVE_UP): Move(_S.QUARANTINE, "state and reason", "not judged"),
        (_S.AWAITING, _E.DISPOSE): Move(_S.DONE, "the rows gone", "deleted; its release ends"),
        (_S.AWAITING, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
        (_S.CORRUPT, _E.DISPOSE): Move(_S.DONE, "the rows gone", "deleted"),
        (_S.QUARANTINE, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
        (_S.RELEASING, _E.DAMAGE): Move(_S.CORRUPT, "state and reason", "listed, never delivered"),
    }
)

_P, _R = RecipientState, RecipientEvent

RECIPIENT_MOVES: Mapping[tuple[RecipientState, RecipientEvent], RecipientState] = MappingProxyType(
    {
        (_P.PENDING, _R.DELIVER): _P.DELIVERED,
        (_P.PENDING, _R.DEFER): _P.DEFERRED,
        (_P.PENDING, _R.BOUNCE): _P.BOUNCED,
        (_P.PENDING, _R.EXPAND): _P.EXPANDED,
        (_P.DEFERRED, _R.DELIVER): _P.DELIVERED,
        (_P.DEFERRED, _R.DEFER): _P.DEFERRED,
        (_P.DEFERRED, _R.BOUNCE): _P.BOUNCED,
        (_P.DEFERRED, _R.EXPAND): _P.EXPANDED,
    }
)


def after(state: MailState | None, event: MailEvent) -> MailState:
    """The state after `event`; raises :class:`IllegalMove`."""
    try:
        return MAIL_MOVES[state, event].to
    except KeyError:
        raise IllegalMove(f"{event.value}: not for a mail in state {_name(state)}") from None


def recipient_after(state: RecipientState, event: RecipientEvent) -> RecipientState:
    """The recipient's state after `event`; raises :class:`IllegalMove`."""
    try:
        return RECIPIENT_MOVES[state, event]
    except KeyError:
        raise IllegalMove(f"{event.value}: not for a recipient that is {_name(state)}") from None


def _name(state: enum.Enum | None) -> str:
    return "(none)" if state is None else state.name.lower()
