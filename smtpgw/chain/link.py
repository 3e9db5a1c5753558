"""One milter's connection in one SMTP session, and the events that it is still to be told of."""

from __future__ import annotations

from collections.abc import Callable

from milterd.core.decision import Verdict
from milterd.wire import messages as wire
from milterd.wire.constants import Actions, Protocol
from milterd.wire.errors import WireError
from milterd.wire.mta import MtaConnection
from milterd.wire.states import EDIT_ACTIONS
from smtpgw.chain.client import MilterClient
from smtpgw.chain.connecting import connect_now, connect_slowly
from smtpgw.chain.edits import hold_text
from smtpgw.chain.events import Event, Frames, Hearing, Said, frames_of, hearing_of
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.opening import open_all
from smtpgw.chain.options import MilterOptions
from smtpgw.chain.results import StageResult
from smtpgw.chain.shared import Shared, State
from smtpgw.chain.showing import Words
from smtpgw.chain.standing import Standing

EDITING = frozenset(EDIT_ACTIONS) - {wire.QuarantineReply}
"""The edits that change a mail."""
ABORT = Event("abort", wire.Abort(), {})
_WORDS = {each: each.value for each in Verdict}
_NOTHING_HEARD = Hearing({}, "")
_NOTHING: Frames = (), b""
_ABORT_OCTETS = ABORT.octets(_NOTHING_HEARD)
_ONLY_ABORT: Frames = (wire.Abort,), _ABORT_OCTETS


class Link:
    """The connection.  No method raises for what a milter does.

    What the milter is still to be told of: that the transaction before is over, if `_owed`, then
    what is its alone, then what all milters are to hear of a transaction.
    """

    def __init__(self, options: MilterOptions, shared: Shared) -> None:
        self.options, self.name = options, options.name
        self._shared = shared
        self._standing = Standing(options, shared)
        self._limits = shared.wire_limits
        self._client: MilterClient | None = None
        self._words: Words
        self._hearing: Hearing = _NOTHING_HEARD
        self._quiet = self.may_edit = False
        self._owed = False
        self._later: list[Event] = []
        self._said: Said | None = None
        self._noted = 0

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
        await open_all((self,))

    def may_open(self) -> bool:
        """Whether it is still to be connected to, and may be."""
        if not self.new:
            return False
        if self._shared.health.may_try(self.name):
            return True
        fault = MilterFault(FaultKind.PAUSED, "it timed out too often of late")
        self._standing.failed("open", fault)
        return False

    def begin_to_open(self, heard: Callable[[], None]) -> bool:
        """Connect, and offer what we have, if neither takes any waiting; whether it was tried."""
        try:
            client = connect_now(self.options.endpoint, MtaConnection(limits=self._limits))
        except MilterFault as fault:
            self._not_opened(fault)
            return True
        if client is not None:
            self._offer(client, heard)
        return client is not None

    async def begin_slowly(self, heard: Callable[[], None]) -> None:
        """The same with waiting."""
        options, connection = self.options, MtaConnection(limits=self._limits)
        try:
            client = await connect_slowly(options.endpoint, connection, options.connect_timeout)
        except MilterFault as fault:
            self._not_opened(fault)
        else:
            self._offer(client, heard)

    def _offer(self, client: MilterClient, heard: Callable[[], None]) -> None:
        self._client = client
        client.offer()
        client.listen(self.options.command_timeout, heard)

    def opened(self) -> bool:
        """Whether it has been found out what becomes of it, once it was begun."""
        client = self._client
        if client is None:
            return not self.new
        try:
            if not client.negotiated():
                return False
        except MilterFault as fault:
            self._drop()
            self._not_opened(fault)
        else:
            self._shared.health.answered(self.name)
            self._use(client)
        return True

    def _not_opened(self, fault: MilterFault) -> None:
        health = self._shared.health
        if fault.kind is FaultKind.TIMEOUT:
            health.timed_out(self.name)
        else:
            health.answered(self.name)
        self._standing.failed("open", fault)

    def do_not_open(self) -> None:
        """Nobody waits for it any more."""
        self._drop()

    def _use(self, client: MilterClient) -> None:
        connection = client.connection
        client.failed = self._failed
        self._hearing = hearing_of(connection.agreement, self.options.macro_daemon_name)
        self._words = Words(client, self._hearing, self._limits)
        self._quiet = connection.quiet
        self.may_edit = not connection.allowed.isdisjoint(EDITING)
        self._standing.state = State.OPEN

    def close(self) -> None:
        """QUIT, where the milter still listens, and before it what was put off."""
        client = self._client
        if client is not None:
            if client.usable:
                self._tell_surely(client)
            client.close()
            self._client = None
            self._shared.health.left(self.name)

    def _tell_now(self, client: MilterClient) -> None:
        """Tell what was put off, without waiting."""
        if client.fault is None:
            self._tell_surely(client)
            client.write()

    def _tell_surely(self, client: MilterClient) -> None:
        """As :meth:`_tell`, where nobody asks for an answer: a milter that cannot be told is hung
        up on."""
        try:
            self._tell(client)
        except WireError as error:
            self._standing.failed("abort", MilterFault(FaultKind.PROTOCOL, error.reason))
            self._drop()

    def _tell(self, client: MilterClient) -> None:
        """Keep the frames of what was put off, to be written with what comes next."""
        kinds, octets = self._told()
        if kinds:
            client.keep(kinds, octets)

    def _told(self) -> Frames:
        """What was put off, and is now told."""
        said, self._said = self._said, None
        owed, self._owed = self._owed, False
        if said is not None:
            said.whole = False
        elif not self._later:
            return _ONLY_ABORT if owed else _NOTHING
        if said is not None and not self._later:
            kinds, octets = said.made.get(self._hearing.dialogue) or said.frames(self._hearing)
        else:
            events, self._later = self._later, []
            if said is not None:
                events += said.events
            kinds, octets = frames_of(events, self._hearing)
        return ((wire.Abort, *kinds), _ABORT_OCTETS + octets) if owed else (kinds, octets)

    def _apart(self) -> None:
        """From now on the milter is told what it alone is to hear."""
        said, self._said = self._said, None
        if said is not None:
            said.whole = False
            self._later += said.events

    def _failed(self) -> None:
        """The connection is of no use any more, and nobody has noticed yet."""
        if self._said is not None:
            self._said.whole = False

    def _drop(self) -> None:
        """Hang up without QUIT, as Postfix does; nothing is asked of it again."""
        if self._client is not None:
            self._client.abort()
            self._client = None
        self._apart()
        self._later.clear()
        self._owed = False

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
