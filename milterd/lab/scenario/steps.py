"""A scenario as values: what to do, and what to expect.

Octets are as they go over the wire, with one exception: a header field stands as it
does in the mail, its value everything after the colon, since how it travels is
negotiated.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]  # it carries no type information

from milterd.wire import messages as m
from milterd.wire.constants import Command, Response, Stage

SEARCH = 1.0
"""Seconds that one search may take, in octets that are the milter's."""


class ScenarioError(Exception):
    """A scenario that cannot be read, or asks for what cannot be done; `line` counts from 1."""

    def __init__(self, name: str, line: int, message: str) -> None:
        super().__init__(f"{name}:{line}: {message}")
        self.name, self.line, self.message = name, line, message


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression on octets, to be found anywhere in them."""

    source: bytes
    ignore_case: bool = False

    def found_in(self, octets: bytes) -> bool:
        """Raises TimeoutError for a search over `SEARCH` seconds."""
        return _compiled(self).search(octets, timeout=SEARCH) is not None

    def check(self) -> None:
        """Raises ValueError for an expression that is none."""
        try:
            _compiled(self)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None


@functools.lru_cache(maxsize=512)
def _compiled(pattern: Pattern) -> regex.Pattern[bytes]:
    flags = regex.DOTALL | (regex.IGNORECASE if pattern.ignore_case else 0)
    return regex.compile(pattern.source, flags)


Text = bytes | Pattern
"""What a value must be: exactly this, or something with this in it."""


@dataclass(frozen=True, slots=True)
class Octets:
    """Octets given in the scenario, so many times over."""

    octets: bytes
    times: int = 1


@dataclass(frozen=True, slots=True)
class FromFile:
    """The octets of a file; a relative path is taken from the scenario's directory."""

    path: bytes


Content = Octets | FromFile

# --- what to do ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Socket:
    """The milter's address, for the whole scenario."""

    address: bytes


@dataclass(frozen=True, slots=True)
class Start:
    """Run the milter under test, and end it afterwards."""

    words: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """Negotiate with this instead of all of version 6; None is all that the version has."""

    version: int = 6
    actions: int | None = None
    protocol: int | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """One event."""

    event: m.CommandMessage


@dataclass(frozen=True, slots=True)
class Body:
    """The body or a part of it, in pieces that libmilter takes."""

    content: Content


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message: DATA, its fields, its body, its end."""

    content: Content


@dataclass(frozen=True, slots=True)
class SetMacros:
    """The macros before each event of a kind from here on; none is an empty packet,
    None no packet."""

    command: Command
    values: tuple[tuple[bytes, bytes], ...] | None


@dataclass(frozen=True, slots=True)
class Raw:
    """Octets as they are."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet with any code and payload."""

    code: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing, for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Within:
    """Every answer from here on must come within so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fragment:
    """Write so many octets at a time from here on; 0: all at once."""

    octets: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Hold the second half of what is written next, for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection at once, without QUIT."""


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Close our half of the connection: the milter reads end of file."""


# --- what to expect -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerIs:
    """One of these answers (keys of ANSWERS)."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplyIs:
    """An SMTP reply: its code (an x is any digit), its enhanced code, its text."""

    code: str
    enhanced: str = ""
    text: Text | None = None


@dataclass(frozen=True, slots=True)
class EditIs:
    """An edit among those the milter asked for; None is whatever it is.

    `name` is a field's name, or an address without its brackets.
    """

    kind: str
    index: int | None = None
    name: bytes | None = None
    value: Text | None = None
    args: tuple[bytes, ...] | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class NoEdit:
    """No edit at all, or `other`: none but those that were expected before."""

    other: bool = False


@dataclass(frozen=True, slots=True)
class Nothing:
    """The milter changes nothing: it goes on, or no answer is due, and no edit came."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer is due, as negotiated: the event is not wanted, or not answered."""


@dataclass(frozen=True, slots=True)
class ProgressCame:
    """A sign of life came before the answer."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing comes for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The milter closes the connection."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The milter breaks the protocol, so that an MTA must hang up."""

    text: Pattern | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """The milter did what it should not, and an MTA lets pass."""

    text: Pattern | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class PacketIs:
    """The next packet, whatever its sense: its code, its payload."""

    code: bytes
    payload: Text | None = None


@dataclass(frozen=True, slots=True)
class VersionIs:
    """The version agreed."""

    version: int


@dataclass(frozen=True, slots=True)
class FlagsAre:
    """The actions or the protocol flags agreed: exactly these, or with and without some."""

    field: str
    exact: int | None = None
    having: int = 0
    lacking: int = 0


@dataclass(frozen=True, slots=True)
class MacrosAre:
    """The macros that the milter asked for at a stage; None: it left that to the MTA."""

    stage: Stage
    names: tuple[bytes, ...] | None


Agreement = VersionIs | FlagsAre | MacrosAre
Wish = (
    AnswerIs
    | ReplyIs
    | EditIs
    | NoEdit
    | Nothing
    | NoAnswer
    | ProgressCame
    | Silence
    | Closed
    | Broken
    | Violation
    | PacketIs
    | Agreement
)


@dataclass(frozen=True, slots=True)
class Expect:
    """What the milter must have done."""

    wish: Wish


Talk = Offer | Say | Body | Message | Raw | Packet | Drop | HalfClose
"""What is done to the milter: each begins a block, to which the expectations after it belong."""
Manner = SetMacros | Sleep | Within | Fragment | Stall
Action = Socket | Start | Talk | Manner | Expect


@dataclass(frozen=True, slots=True)
class Step:
    """An action, and the line where it stands."""

    line: int
    action: Action


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file of steps; `name` is its path as it was given."""

    name: str
    steps: tuple[Step, ...]


ANSWERS: dict[str, type[m.Reply]] = {
    "continue": m.Continue,
    "accept": m.Accept,
    "reject": m.Reject,
    "tempfail": m.TempFail,
    "discard": m.Discard,
    "skip": m.Skip,
    "shutdown": m.Shutdown,
    "conn-fail": m.ConnFail,
}
HEADER_EDITS = ("add-header", "insert-header", "change-header", "delete-header")
INDEXED_EDITS = HEADER_EDITS[1:]
ADDRESS_EDITS = ("add-rcpt", "del-rcpt", "change-from")
EDITS = (*HEADER_EDITS, *ADDRESS_EDITS, "replace-body", "quarantine")

EVENTS: dict[str, Command] = {
    "connect": Command.CONNECT,
    "helo": Command.HELO,
    "mail": Command.MAIL,
    "rcpt": Command.RCPT,
    "data": Command.DATA,
    "header": Command.HEADER,
    "eoh": Command.END_OF_HEADERS,
    "body": Command.BODY,
    "end": Command.END_OF_MESSAGE,
    "unknown": Command.UNKNOWN,
}
"""The events that macros may go before, by their words."""
STAGES: dict[str, Stage] = {
    "connect": Stage.CONNECT,
    "helo": Stage.HELO,
    "mail": Stage.MAIL,
    "rcpt": Stage.RCPT,
    "data": Stage.DATA,
    "eoh": Stage.END_OF_HEADERS,
    "end": Stage.END_OF_MESSAGE,
}
BARE: dict[str, m.CommandMessage] = {
    "data": m.Data(),
    "eoh": m.EndOfHeaders(),
    "abort": m.Abort(),
    "quit": m.Quit(),
    "quit-nc": m.QuitNewConnection(),
}
"""The events that carry nothing."""
CODES = frozenset(each.value for each in (*Command, *Response))
