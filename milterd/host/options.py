"""What a host is told: limits, where to spool, and whose mail is originating."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from milterd.core.filter import Need
from milterd.core.mail import Direction

KIB = 1024
MIB = 1024 * KIB


class Oversize(enum.Enum):
    """What becomes of a mail that is larger than the host will hold for its filter."""

    REJECT = "reject"
    TEMPFAIL = "tempfail"
    ACCEPT = "accept"


class OnFailure(enum.Enum):
    """What becomes of a mail whose filter failed: raised an exception, or asked for what cannot
    be said.  One that is held goes on once the filter has judged it."""

    TEMPFAIL = "tempfail"
    REJECT = "reject"
    HOLD = "hold"
    QUARANTINE = "quarantine"
    TAG = "tag"
    ACCEPT = "accept"


_KEEPING = frozenset({OnFailure.HOLD, OnFailure.QUARANTINE})


class Fault(enum.Enum):
    """Why a filter did not judge a mail: it failed, or the mail is larger than it is given."""

    ERROR = "error"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one host.

    - `trusted_networks`, `daemon_names`: a mail from such a client, or that came in by
      a listener whose {daemon_name} is among them, is originating; so is an
      authenticated one.
    - `spool_directory`: where bodies over `memory_limit` octets are kept, in files
      without a name; None means the system's directory for temporary files.
    - `memory_total`: octets of headers, envelopes and bodies of all mails that come in, in memory
      together; bodies beyond it go to files, and a mail whose header is beyond it is put off.
    - `size_limit`: octets of header and body together; `header_limit`: octets of header
      and envelope, which are always in memory.  A larger mail gets `oversize`.
    - `threads`: mails judged at the same time by the native host; 0 judges in the event
      loop, for filters that ask nobody.  libmilter has threads of its own.
    - `connections`: connections at a time.  The native host takes no more, which wait in the
      backlog; libmilter knows no limit but that of open files, which is made to be enough for
      so many.
    - `idle_timeout`: seconds without a word from the MTA before a connection is closed;
      it has to outlast a slow SMTP session (libmilter's own default is 7210).
    - `on_failure`: for faults of the filter; our own (a full disk, say) are always temporary.
    - `faults`: what differs from `on_failure` and `oversize`, for mail of a direction.
    - `judge_time`: seconds for which the native host waits for a filter that has threads; None
      waits for as long as it takes, for filters that have a deadline of their own.
    - `shadow`: the filter decides and the log says so, but the mail goes on as it is.
    """

    trusted_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    daemon_names: frozenset[bytes] = frozenset()
    spool_directory: Path | None = None
    memory_limit: int = 1 * MIB
    memory_total: int = 256 * MIB
    size_limit: int = 100 * MIB
    header_limit: int = 1 * MIB
    oversize: Oversize = Oversize.REJECT
    threads: int = 16
    connections: int = 4000
    idle_timeout: float = 7210.0
    on_failure: OnFailure = OnFailure.TEMPFAIL
    shadow: bool = False
    judge_time: float | None = None
    faults: Mapping[tuple[Fault, Direction], OnFailure] = field(default_factory=dict)

    def action(self, fault: Fault, direction: Direction) -> OnFailure:
        """What becomes of a mail that was not judged."""
        usual = self.on_failure if fault is Fault.ERROR else OnFailure(self.oversize.value)
        return self.faults.get((fault, direction), usual)

    @property
    def needs(self) -> Need:
        """What the host itself may have to ask the MTA for."""
        found = {self.action(fault, each) for fault in Fault for each in Direction}
        needs = Need(0)
        if found & _KEEPING:
            needs |= Need.QUARANTINE
        if found & {*_KEEPING, OnFailure.TAG}:
            needs |= Need.ADD_HEADERS
        return needs
