"""A recorded conversation as steps: what the MTA sent, and what was answered to it.

Answers are given to events as the recorded negotiation makes them due, not by their
times: an MTA that does not wait is understood too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from milterd.lab.link import STAGES
from milterd.lab.tape import Conversation, Said
from milterd.lab.wording import decoded, readable
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.errors import PeerError
from milterd.wire.states import (
    EDIT_ACTIONS,
    EVENTS,
    CommandType,
    unanswered_commands,
    unsent_commands,
)

_NO_FINAL = (*EDIT_ACTIONS, m.Progress)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a negotiation means for events."""

    unsent: frozenset[CommandType] = frozenset()
    unanswered: frozenset[CommandType] = frozenset()

    @classmethod
    def of(cls, version: int, protocol: Protocol) -> Terms:
        """Of the milter's answer."""
        return cls(unsent_commands(protocol, version), unanswered_commands(protocol))

    def answers(self, kind: CommandType | None) -> bool:
        """Whether an event of this kind gets an answer."""
        if kind is m.Negotiate:
            return True
        return kind in EVENTS and kind not in self.unanswered


@dataclass(eq=False, slots=True)
class Step:
    """One packet of the MTA's, or a piece of what is none.

    `macros` are the macro packets before it.  `kind` is None for what is no event.
    `answer` holds the milter's packets, the reply last if it is `answered`; `garbage` what
    was no packet.  `owed` are the steps that had no answer yet when this was sent.
    """

    number: int
    message: int
    octets: bytes
    kind: CommandType | None = None
    event: str = "no packet"
    macros: bytes = b""
    owed: tuple[Step, ...] = ()
    due: bool = False
    answer: list[bytes] = field(default_factory=list)
    garbage: bytes = b""
    answered: bool = False


@dataclass(slots=True)
class Script:
    """`hung_up`: the milter closed first, and nobody had said QUIT."""

    connection: int
    steps: list[Step] = field(default_factory=list)
    hung_up: bool = False
    messages: int = 0


def is_final(packet: bytes) -> bool:
    """Whether a milter's packet is a reply, neither an edit nor a sign of life."""
    try:
        return not isinstance(decoded("milter", packet), _NO_FINAL)
    except PeerError:
        return True


def script(conversation: Conversation) -> Script:
    """The steps of a conversation."""
    return _Reading(conversation).read()


class _Reading:
    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._made = Script(conversation.connection)
        self._due: deque[Step] = deque()
        self._macros = b""
        self._terms = Terms()

    def read(self) -> Script:
        made, quits = self._made, False
        for said in self._conversation.said:
            if said.side == "mta":
                self._asked(said)
            else:
                self._answered(said)
        if self._macros:
            self._add(Step(0, made.messages, b"", event="macros"))
        for each in made.steps:
            quits = quits or each.kind is m.Quit
        closed = self._conversation.closed
        made.hung_up = bool(closed) and closed[0].by == "milter" and not quits
        return made

    def _asked(self, said: Said) -> None:
        made = self._made
        step = Step(0, made.messages, said.octets)
        if said.whole:
            try:
                message = decoded("mta", said.octets)
            except PeerError:
                step.event = "unreadable packet"
            else:
                if isinstance(message, m.Macros):
                    self._macros += said.octets
                    return
                kind = type(message)
                if kind is m.MailFrom:
                    made.messages += 1
                    step.message = made.messages
                step.kind, step.event = kind, _event(message)  # type: ignore[assignment]
        self._add(step)
        if self._terms.answers(step.kind):
            step.due = True
            self._due.append(step)

    def _add(self, step: Step) -> None:
        step.number, step.macros, self._macros = len(self._made.steps), self._macros, b""
        step.owed = tuple(self._due)
        self._made.steps.append(step)

    def _answered(self, said: Said) -> None:
        if not self._made.steps:
            # A milter that speaks first: to nothing.
            self._add(Step(0, 0, b"", event="connection"))
        step = self._due[0] if self._due else self._made.steps[-1]
        if not said.whole:
            step.garbage += said.octets
            return
        step.answer.append(said.octets)
        if is_final(said.octets) and self._due:
            self._due.popleft().answered = True
            self._agree(said.octets)

    def _agree(self, packet: bytes) -> None:
        try:
            reply = decoded("milter", packet)
        except PeerError:
            return  # what it means stays unknown; the packet itself is compared
        if isinstance(reply, m.Negotiate):
            self._terms = Terms.of(reply.version, reply.protocol)


def _event(message: m.CommandMessage | m.Reply) -> str:
    """The event's name, and which of its kind it is."""
    name = STAGES[type(message)]  # type: ignore[index]
    match message:
        case m.MailFrom() | m.RcptTo():
            return f"{name} {readable(message.address)}"
        case m.Header():
            return f"{name} {readable(message.name)}"
    return name
