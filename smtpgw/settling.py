"""From the outcome of a delivery to what the store keeps and a DSN tells.  Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Failed, Held, Outcome
from smtpgw.dsn import envelope
from smtpgw.dsn.report import Action, DsnOptions, News, Reported
from smtpgw.queue.states import RecipientEvent
from smtpgw.queue.store import QueuedRecipient, Result, Tried


def expire(outcome: Outcome) -> Outcome:
    """A deferral at the end of a mail's life is a failure (RFC 3463 X.4.7)."""
    if not isinstance(outcome, Deferred) or isinstance(outcome, Held):
        return outcome
    text = outcome.text if outcome.spoken else f"delivery time expired: {outcome.text}"
    return Failed(outcome.number, text, outcome.remote, "4.4.7", outcome.spoken)


def spare(outcome: Outcome) -> Outcome:
    """A failure whose report cannot be queued now, or is not wanted yet: it will be found again."""
    if not isinstance(outcome, Failed):
        return outcome
    enhanced = f"4{outcome.enhanced[1:]}"
    return Deferred(outcome.number, outcome.text, outcome.remote, enhanced, outcome.spoken)


_EVENTS = {
    Delivered: RecipientEvent.DELIVER,
    Deferred: RecipientEvent.DEFER,
    Held: RecipientEvent.DEFER,
    Failed: RecipientEvent.BOUNCE,
}


NAMES: Mapping[type[Outcome], str] = {
    each: each.__name__.lower() for each in (Delivered, Deferred, Held, Failed)
}
"""What an outcome is called."""


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
        key = (NAMES[type(each)], each.enhanced, each.text, each.remote)
        counted[key] = counted.get(key, 0) + 1
    return [
        Tried(at, str(destination), number, outcome, enhanced, text, remote, round(took, 3))
        for (outcome, enhanced, text, remote), number in counted.items()
    ]


Fate = tuple[News, Action]


def fate(
    recipient: QueuedRecipient,
    destination: Destination,
    outcome: Outcome,
    *,
    warn: bool,
    told: bool,
    options: DsnOptions,
) -> Fate | None:
    """What a DSN would say of this, or None where there is nothing to tell.

    `warn`: a deferral is to be told of now; `told`: the sender heard of a delay before.
    """
    match outcome:
        case Failed():
            return News.FAILURE, Action.FAILED
        case Held():
            return None
        case Deferred():
            return (News.DELAY, Action.DELAYED) if warn else None
    action = _taken(destination, outcome, options)
    if not outcome.passed_on and b"SUCCESS" in (envelope.notify(recipient.args) or ()):
        return News.SUCCESS, action
    return (News.CLEARED, action) if told and options.confirm_delay_cleared else None


def _taken(destination: Destination, outcome: Delivered, options: DsnOptions) -> Action:
    """Delivered, or handed to one that may still fail (RFC 3461 section 5.2.2)."""
    final = destination.transport == "lmtp" and options.lmtp_assume_final
    relayed = outcome.passed_on or (outcome.relayed and not final)
    return Action.RELAYED if relayed else Action.DELIVERED


def trouble(destination: Destination, outcome: Outcome) -> News | None:
    """Which fault of our own this deferral is, if it is one: a full disk, or a broken program."""
    if not isinstance(outcome, Deferred) or outcome.spoken or outcome.unreachable:
        return None
    if outcome.remote or destination.transport in ("retry", "hold"):
        return None
    return {"4.3.1": News.RESOURCE, "4.3.0": News.SOFTWARE}.get(outcome.enhanced)


def waiting(
    final: Collection[tuple[Destination, Outcome]],
) -> tuple[list[Destination], str | None]:
    """What a mail waits for, and, if that is somebody's look alone, why it is held."""
    held = [(where, each) for where, each in final if isinstance(each, Held)]
    later = [
        where for where, each in final if isinstance(each, Deferred) and not isinstance(each, Held)
    ]
    if held and not later:
        return [where for where, _ in held], held[0][1].text
    return later, None


def reported(recipient: QueuedRecipient, action: Action, outcome: Outcome) -> Reported:
    """A recipient with its outcome, for a DSN."""
    spoken = bool(outcome.remote) if isinstance(outcome, Delivered) else outcome.spoken
    return Reported(
        recipient.address,
        recipient.args,
        action,
        outcome.enhanced,
        outcome.text,
        outcome.remote,
        spoken,
    )
