"""What is kept of each answer: from what road and edge know to a decision in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from milterd.core.decision import Reason
from smtpgw.decisions.decision import Decision, new_reference
from smtpgw.edge.road import Answer, Connection, Hello, Refused

Step = Mapping[str, object]


def _never() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """What a decision is about.  `steps` are the rules that were asked, in a form for JSON."""

    command: str
    source: str
    outcome: str
    sender: bytes = b""
    recipients: tuple[bytes, ...] = ()
    queue_id: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    steps: Sequence[Step] = ()


class Keeper(Protocol):
    """Where decisions go (:class:`smtpgw.decisions.store.DecisionStore`)."""

    kept: int

    def note(self, decision: Decision) -> None: ...

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
        client = connection.client
        self._keep(
            Decision(
                reference=reference,
                at=self.wall(),
                session=connection.session,
                listener=connection.listener,
                command=case.command,
                code=answer.code,
                enhanced=answer.enhanced,
                text=answer.text,
                source=case.source,
                outcome=case.outcome,
                client=_text(client.address),
                client_name=_text(client.name),
                helo=_text(hello.name),
                sender=_text(case.sender),
                recipient=" ".join(map(_text, case.recipients[:100])),
                queue_id=case.queue_id,
                facts=plain(case.facts),
                steps=tuple(map(plain, case.steps)),
            )
        )
        if answer.positive:
            return answer, reference
        silent = answer.verbatim or not self.in_replies
        return replace(answer, reference=reference, verbatim=silent), reference

    def _keep(self, decision: Decision) -> None:
        if self.store is not None:
            self.store.note(decision)

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


def reasons(those: Sequence[Reason]) -> tuple[Step, ...]:
    """What milters and rewriting did, as steps."""
    return tuple(
        {"list": "message", "restriction": each.source, "outcome": each.outcome, **each.facts}
        for each in those
    )


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
