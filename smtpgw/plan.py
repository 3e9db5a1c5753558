"""What a session goes by: what the settings say of its listener, and what all sessions share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from smtpgw.addresses import Addresses
from smtpgw.chain.health import Health
from smtpgw.chain.options import EditLimits, MilterOptions
from smtpgw.cleanup import CleanupOptions
from smtpgw.client_name import ClientNames
from smtpgw.intake import Intake
from smtpgw.limiting import LimitPlan
from smtpgw.policy.engine import Policy
from smtpgw.policy.ports import Ports
from smtpgw.quarantine.entry import QuarantineOptions
from smtpgw.rates.limits import Counters
from smtpgw.recording import Recorder


@dataclass(frozen=True, slots=True)
class Plan:
    """What the settings say about mail from one listener.  `policies`: the usual one, and the
    one under stress.  Without `quarantine`, what milters want there is held in the queue."""

    cleanup: CleanupOptions
    addresses: Addresses
    policies: Sequence[Policy]
    milters: tuple[MilterOptions, ...] = ()
    macros: Mapping[str, bytes] = field(default_factory=dict)
    limits: EditLimits = field(default_factory=EditLimits)
    clients: LimitPlan = field(default_factory=LimitPlan)
    peername_lookup: bool = False
    ports: Ports | None = None
    quarantine: QuarantineOptions | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What all sessions of a worker share, whatever the settings.

    `wall` is seconds since the epoch, for dates; `clock` only measures.  `flush` makes all
    that waits for some domains due now and says how much it was; None where nobody can.
    `names` finds the names of clients; None where they stay unknown.  `ports` is what
    restrictions need of the world.
    """

    intake: Intake
    health: Health
    log: FilteringBoundLogger
    wall: Callable[[], float]
    clock: Callable[[], float]
    flush: Callable[[Sequence[str]], Awaitable[int]] | None = None
    counters: Counters | None = None
    names: ClientNames | None = None
    recorder: Recorder = field(default_factory=Recorder)
    ports: Ports = field(default_factory=Ports)
