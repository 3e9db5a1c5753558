"""What is kept of each answer: from what road and edge know to a decision in the store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from milterd.core.decision import Reason
from smtpgw.decisions.decision import LONGEST, Decision, new_reference, to_json
from smtpgw.edge.road import Answer, Connection, Hello, Refused
from smtpgw.policy.record import Record, Row, as_dict
from smtpgw.reasons import step, step_as_json

Step = Mapping[str, object]


def _never() -> float:
    return 0.0


@dataclass(slots=True)  # there is one for each mail, and to freeze it costs as much as a call each
class Case:
    """What a decision is about.  `records` hold the rules that were asked, `steps` others in a
    form for JSON, `reasons` what milters and rewriting did; the decision has them in this order.
    Nothing of it may be changed any more."""

    command: str
    source: str
    outcome: str
    sender: bytes = b""
    recipients: tuple[bytes, ...] = ()
    queue_id: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    records: Sequence[Record] = ()
    reasons: Sequence[Reason] = ()


class Keeper(Protocol):
    """Where decisions go (:class:`smtpgw.decisions.store.DecisionStore`)."""

    kept: int

    def note(self, make: Callable[[], Decided]) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Recorder:
    """Keeps decisions in `store`, if there is one.  `wall` is in seconds since the epoch; with
    `in_replies` off, answers do not carry references, but the log does."""

    store: Keeper | None = None
    wall: Callable[[], float] = _never
    reference: Callable[[], str] = new_reference
    in_replies: bool = True

    def configure(self, *, kept: int, in_replies: bool) -> None:
        """Go by these settings from now on."""
        self.in_replies = in_replies
        if self.store is not None:
            self.store.kept = kept

    def close(self) -> None:
        """Write what has not been written; takes a few seconds at most."""
        if self.store is not None:
            self.store.close()

    def decided(
        self, connection: Connection, hello: Hello, case: Case, answer: Answer
    ) -> tuple[Answer, str]:
        """Keep it; the answer as the client is to hear it, and the reference."""
        reference = self.reference()
        if self.store is not None:
            # It is put together where it is written: no client waits for that.
            self.store.note(
                partial(Decided, reference, self.wall(), connection, hello, case, answer)
            )
        if answer.positive:
            return answer, reference
        silent = answer.verbatim or not self.in_replies
        return replace(answer, reference=reference, verbatim=silent), reference

    def edge(self, refused: Refused) -> str:
        """A :data:`smtpgw.edge.road.Note`."""
        outcome = "rejected" if refused.answer.code >= 500 else "tempfailed"
        case = Case(
            command=refused.verb or "CONNECT",
            source=refused.source,
            outcome=outcome,
            sender=refused.sender,
            recipients=(refused.recipient,) if refused.recipient else (),
            facts=refused.facts,
        )
        hello = Hello(refused.helo, esmtp=False)
        answer, _reference = self.decided(refused.connection, hello, case, refused.answer)
        return answer.reference if self.in_replies else ""


class Decided:
    """All that a decision is made of.  :meth:`encode` writes what :class:`Decision` would of the
    same, in half the time: there is one for each mail."""

    __slots__ = ("_answer", "_at", "_case", "_connection", "_hello", "reference")

    def __init__(
        self,
        reference: str,
        at: float,
        connection: Connection,
        hello: Hello,
        case: Case,
        answer: Answer,
    ) -> None:
        self.reference, self._at = reference, at
        self._connection, self._hello, self._case, self._answer = connection, hello, case, answer

    @property
    def queue_id(self) -> str:
        """Of the mail, if it is about one."""
        return self._case.queue_id

    @property
    def session(self) -> str:
        """That it belongs to."""
        return self._connection.session

    def decision(self) -> Decision:
        """The same to be looked at."""
        case = self._case
        asked = (each for record in case.records for each in record.as_dicts())
        steps: tuple[Step, ...] = (*asked, *map(plain, case.steps), *map(step, case.reasons))
        return Decision(**self._facts(), steps=steps)

    def encode(self) -> str:
        """As JSON, not longer than a decision may be."""
        case = self._case
        steps = [_step(row) for record in case.records for row in record.rows]
        if case.steps:
            steps += [to_json(plain(each)) for each in case.steps]
        if case.reasons:
            steps += map(step_as_json, case.reasons)
        text = f'{to_json(self._facts())[:-1]},"steps":[{",".join(steps)}]}}'
        return text if len(text) <= LONGEST else self.decision().encode()

    def _facts(self) -> dict[str, Any]:
        """The fields of a decision in their order, but for the steps."""
        connection, case, answer = self._connection, self._case, self._answer
        return {
            "reference": self.reference,
            "at": self._at,
            "session": connection.session,
            "listener": connection.listener,
            "command": case.command,
            "code": answer.code,
            "enhanced": answer.enhanced,
            "text": answer.text,
            "source": case.source,
            "outcome": case.outcome,
            "client": _text(connection.client.address),
            "client_name": _text(connection.client.name),
            "helo": _text(self._hello.name),
            "sender": _text(case.sender),
            "recipient": " ".join([_text(each) for each in case.recipients[:100]]),
            "queue_id": case.queue_id,
            "facts": plain(case.facts),
        }


def _step(row: Row) -> str:
    """A step of a record as JSON.  Those that took no time and are without a reply come again
    with each mail of a client."""
    return _usual_step(row) if not (row[-1] or row[-2]) else to_json(as_dict(row))


@functools.lru_cache(maxsize=500)
def _usual_step(row: Row) -> str:
    return to_json(as_dict(row))


def plain(facts: Mapping[str, object]) -> dict[str, object]:
    """The same with values that JSON has."""
    return {str(key): _plain(value) for key, value in facts.items()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")
