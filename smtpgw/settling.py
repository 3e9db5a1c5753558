"""From the outcome of a delivery to what the store keeps and a DSN tells.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw import dsn
from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Failed, Outcome
from smtpgw.dsn import Reported
from smtpgw.queue.states import RecipientEvent
from smtpgw.queue.store import QueuedRecipient, Result, Tried


def expire(outcome: Outcome) -> Outcome:
    """A deferral at the end of a mail's life is a failure (RFC 3463 X.4.7)."""
    if not isinstance(outcome, Deferred):
        return outcome
    text = outcome.text if outcome.spoken else f"delivery time expired: {outcome.text}"
    return Failed(outcome.number, text, outcome.remote, "4.4.7", outcome.spoken)


def spare(outcome: Outcome) -> Outcome:
    """A failure whose report cannot be queued now: it will be found again."""
    if not isinstance(outcome, Failed):
        return outcome
    enhanced = f"4{outcome.enhanced[1:]}"
    return Deferred(outcome.number, outcome.text, outcome.remote, enhanced, outcome.spoken)


_EVENTS = {
    Delivered: RecipientEvent.DELIVER,
    Deferred: RecipientEvent.DEFER,
    Failed: RecipientEvent.BOUNCE,
}


def result(destination: Destination, outcome: Outcome) -> Result:
    """The outcome as the store keeps it."""
    event = _EVENTS[type(outcome)]
    return Result(
        outcome.number, event, outcome.enhanced, outcome.text, outcome.remote, str(destination)
    )


def tried(
    destination: Destination, outcomes: Sequence[Outcome], at: float, took: float
) -> list[Tried]:
    """An attempt's part for the history: equal answers to several recipients once."""
    counted: dict[tuple[str, str, str, str], int] = {}
    for each in outcomes:
        key = (type(each).__name__.lower(), each.enhanced, each.text, each.remote)
        counted[key] = counted.get(key, 0) + 1
    return [
        Tried(at, str(destination), number, outcome, enhanced, text, remote, round(took, 3))
        for (outcome, enhanced, text, remote), number in counted.items()
    ]


def action(outcome: Outcome, warn: bool) -> str | None:
    """What a DSN would call this, or None where there is nothing to tell."""
    match outcome:
        case Failed():
            return dsn.FAILED
        case Deferred():
            return dsn.DELAYED if warn else None
        case Delivered(passed_on=True):
            return None
        case Delivered(relayed=True):
            return dsn.RELAYED
        case _:
            return dsn.DELIVERED


def reported(recipient: QueuedRecipient, action: str, outcome: Outcome) -> Reported:
    """A recipient with its outcome, for a DSN."""
    spoken = isinstance(outcome, Deferred | Failed) and outcome.spoken
    return Reported(
        recipient.address,
        recipient.args,
        action,
        outcome.enhanced,
        outcome.text,
        outcome.remote,
        spoken,
    )
