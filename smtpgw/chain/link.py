"""One milter's connection in one SMTP session, and the events that it is still to be told of."""

from __future__ import annotations

from milterd.core.decision import Verdict
from milterd.wire import messages as wire
from milterd.wire.constants import Actions, Protocol
from milterd.wire.errors import WireError
from milterd.wire.mta import MtaConnection
from milterd.wire.states import EDIT_ACTIONS
from smtpgw.chain.client import MilterClient
from smtpgw.chain.connecting import connect
from smtpgw.chain.edits import hold_text
from smtpgw.chain.events import Event, Frames, Hearing, Said, frames_of, hearing_of
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.options import MilterOptions
from smtpgw.chain.results import StageResult
from smtpgw.chain.shared import Shared, State
from smtpgw.chain.standing import Standing

EDITING = frozenset(EDIT_ACTIONS) - {wire.QuarantineReply}
"""The edits that change a mail."""
ABORT = Event("abort", wire.Abort(), {})
_WORDS = {each: each.value for each in Verdict}
_NOTHING_HEARD = Hearing({}, "")
_ABORT_OCTETS = ABORT.octets(_NOTHING_HEARD)


class Link:
    """The connection.  No method raises for what a milter does.

    What the milter is still to be told of: that the transaction before is over, if `_owed`, then
    what is its alone, then what all milters are to hear of a transaction.
    """

    def __init__(self, options: MilterOptions, shared: Shared) -> None:
        self.options = options
        self._shared = shared
        self._standing = Standing(options, shared)
        self._limits = shared.wire_limits
        self._client: MilterClient | None = None
        self._hearing: Hearing = _NOTHING_HEARD
        self._quiet = self.may_edit = False
        self._owed = False
        self._later: list[Event] = []
        self._said: Said | None = None
        self._noted = 0

    @property
    def name(self) -> str:
        """The milter's name in configuration."""
        return self.options.name

    @property
    def new(self) -> bool:
        """Whether it is still to be connected to."""
        return self._standing.state is State.NEW

    @property
    def asked(self) -> bool:
        """Whether it is still told of events."""
        return self._standing.state is State.OPEN

    @property
    def hears_rejected(self) -> bool:
        """Whether it asked to hear of recipients that were refused."""
        client = self._client
        return client is not None and Protocol.RCPT_REJ in client.connection.agreed_protocol

    async def open(self) -> None:
        """Connect and negotiate, unless that was done; failure is remembered, not raised."""
        if not self.new:
            return
        options, health = self.options, self._shared.health
        if not health.may_try(self.name):
            fault = MilterFault(FaultKind.PAUSED, "it timed out too often of late")
            self._standing.failed("open", fault)
            return
        try:
            client = await connect(
                options.endpoint,
                MtaConnection(limits=self._limits),
                connecting=options.connect_timeout,
                patience=options.command_timeout,
            )
        except MilterFault as fault:
            if fault.kind is FaultKind.TIMEOUT:
                health.timed_out(self.name)
            else:
                health.answered(self.name)
            self._standing.failed("open", fault)
        else:
            health.answered(self.name)
            self._use(client)

    def _use(self, client: MilterClient) -> None:
        connection = client.connection
        self._client = client
        client.failed = self._failed
        self._hearing = hearing_of(connection, self.options.macro_daemon_name)
        self._quiet = connection.quiet
        self.may_edit = not connection.allowed.isdisjoint(EDITING)
        self._standing.state = State.OPEN

    def close(self) -> None:
        """QUIT, where the milter still listens."""
        client = self._client
        if client is not None:
            if not client.connection.awaiting:
                self._tell_now(client)
            client.close()
            self._client = None
            self._shared.health.left(self.name)

    def _tell_now(self, client: MilterClient) -> None:
        """Tell what was put off, without waiting."""
        if client.fault is None:
            try:
                self._tell(client)
                client.write()
            except WireError as error:
                self._standing.failed("abort", MilterFault(FaultKind.PROTOCOL, error.reason))
                self._drop()

    def _tell(self, client: MilterClient) -> None:
        """Keep the frames of what was put off, to be written with what comes next."""
        kinds, parts = self._told()
        if kinds:
            client.keep(kinds, parts)

    def _told(self) -> Frames:
        """What was put off, and is now told."""
        said = self._take_said()
        owed, self._owed = self._owed, False
        if said is not None and not self._later:
            kinds, parts = said.frames(self._hearing)
        else:
            events, self._later = self._later, []
            if said is not None:
                events += said.events
            kinds, parts = frames_of(events, self._hearing)
        return ((wire.Abort, *kinds), [_ABORT_OCTETS, *parts]) if owed else (kinds, parts)

    def _apart(self) -> None:
        """From now on the milter is told what it alone is to hear."""
        said = self._take_said()
        if said is not None:
            self._later += said.events

    def _take_said(self) -> Said | None:
        """What it shares with others up to now."""
        said, self._said = self._said, None
        if said is not None:
            said.whole = False
        return said

    def _failed(self) -> None:
        """The connection is of no use any more, and nobody has noticed yet."""
        if self._said is not None:
            self._said.whole = False

    def _drop(self) -> None:
        """Hang up without QUIT, as Postfix does; nothing is asked of it again."""
        if self._client is not None:
            self._client.abort()
            self._client = None
        self._later.clear()
        self._owed = False
        self._take_said()

    def _with_hold(self, client: MilterClient, stage: str, result: StageResult) -> StageResult:
        """The result with what the milter let slip before its verdict."""
        for each in client.connection.violations[self._noted :]:
            self._noted += 1
            self._shared.log.warning("milter protocol violation", milter=self.name, what=each)
        hold, client.early_hold = client.early_hold, None
        if hold is None or Actions.QUARANTINE not in client.connection.agreed_actions:
            return result
        return self._standing.caught(result, stage, hold_text(hold.reason))

    def _note(self, stage: str, began: float, result: StageResult) -> None:
        """Measure an event that was asked; a milter that is asked no more is hung up on."""
        standing, shared = self._standing, self._shared
        outcome = _WORDS[result.verdict]
        if standing.state is not State.OPEN and standing.over:
            self._drop()
            if result is standing.fixed and standing.state is State.FIXED:
                outcome = "failed"
        shared.observe(self.options.name, stage, shared.clock() - began, outcome)
