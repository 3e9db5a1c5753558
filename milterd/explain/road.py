"""One mail through our filters, one after the other, as their hosts and the gateway do it.

The mail goes through the host's own collector, so that limits, directions and addresses
are what they would be; only the socket is missing.  Each filter sees what the ones before
it made of the mail, until one does not let it pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from milterd.check import build
from milterd.config import MilterdConfig
from milterd.core.apply import apply
from milterd.core.decision import Decision, Tried, Verdict
from milterd.core.mail import BytesBody, Direction, Mail, Session
from milterd.explain.order import Place
from milterd.filters import CheckedFilter
from milterd.filters.setup import SetupError
from milterd.host.collect import Collector, plain_macros
from milterd.host.judge import Judge, Surroundings
from milterd.host.negotiation import MACROS
from milterd.host.options import Options
from milterd.lab.postfix import Macros, content_events, session_events
from milterd.signed.survive import as_delivered
from milterd.wire import messages as m

PASSED = (Verdict.CONTINUE, Verdict.ACCEPT)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one filter decided, and all that led to it.

    `facts` are what it gathered, or what was `given` in the world's place; None where it
    did not come to that.  `fault` is what the filter raised, in words.
    """

    decision: Decision
    facts: Any = None
    given: bool = False
    tried: tuple[Tried, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """One filter on the road: its answer, or why it was not asked, and the mail around it; what a
    filter in shadow decides is not done."""

    name: str
    before: Mail
    after: Mail
    answer: Answer | None = None
    unasked: str = ""
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Road:
    """The whole road: what decides the mail's direction, each filter, and what ended it."""

    session: Session
    why: str
    stops: tuple[Stop, ...]
    mail: Mail
    last: Decision

    @property
    def passed(self) -> bool:
        """Whether the mail would be let pass, a discarded one too: its client is told so."""
        return self.last.verdict in (*PASSED, Verdict.DISCARD)


def build_all(config: MilterdConfig, names: Sequence[str]) -> dict[str, CheckedFilter]:
    """The filters by name.  Raises SetupError with everything that is wrong with any."""
    built: dict[str, CheckedFilter] = {}
    problems: list[str] = []
    for name in names:
        try:
            built[name] = build(config, name)
        except SetupError as error:
            problems += [f"{name}: {each}" for each in error.problems]
    if problems:
        raise SetupError(", ".join(names), problems)
    return built


def walk(
    config: MilterdConfig,
    row: Sequence[Place],
    built: Mapping[str, CheckedFilter],
    mail: Mail,
    given: Mapping[str, Any],
) -> Road:
    """Ask the filters in `row` in turn; `given` are facts by filter, in the world's place.

    Raises LocalError for a mail that no MTA can tell a milter.
    """
    stops: list[Stop] = []
    last, ended = Decision(), ""
    session, why = _session(mail, config.host_options(row[0].name))
    for place in row:
        if ended or session.direction not in place.directions:
            kind = session.direction.value
            unasked = ended or f"the gateway does not ask it about {kind} mail"
            stops.append(Stop(place.name, mail, mail, unasked=unasked))
            continue
        options = config.host_options(place.name)
        answer = _ask(built[place.name], options, mail, given)
        done = Decision() if options.shadow else answer.decision
        stop = Stop(place.name, mail, _after(mail, done), answer, shadow=options.shadow)
        stops.append(stop)
        mail = stop.after
        if done.verdict not in PASSED:
            last, ended = done, f"{place.name} has ended it"
    return Road(session, why, tuple(stops), mail, last)


def _after(mail: Mail, decision: Decision) -> Mail:
    """The mail with the filter's edits, as its MTA makes them: over a Received field of its own,
    which no filter is shown."""
    if decision.verdict not in PASSED or not decision.edits:
        return mail
    after = apply(as_delivered(mail), decision.edits)
    return after.with_headers(after.visible())


def _ask(filter_: CheckedFilter, options: Options, mail: Mail, given: Mapping[str, Any]) -> Answer:
    log = _Faults()
    judge = Judge(filter_, options, Surroundings(log, lambda: "explain"))
    collector = Collector(options)
    _tell(mail, collector)
    tried: list[Tried] = []
    facts, is_given = None, filter_.name in given
    try:
        seen = judge.collected(collector)
        if isinstance(seen, Decision):
            return Answer(seen, fault=log.said)
        facts = given[filter_.name] if is_given else filter_.gather(seen, tried.append)
        decision = filter_.decide(seen, facts, tried.append)
    except Exception as error:  # noqa: BLE001  # whatever it is, the daemon answers it with 451
        decision = judge.failure("filter", error)
    finally:
        collector.forget()
    return Answer(decision, facts, is_given, tuple(tried), log.said)


def _tell(mail: Mail, collector: Collector) -> None:
    """All that an MTA would tell the filter's host."""
    macros = Macros(mail, MACROS)
    for event in (*session_events(mail), *_envelope_events(mail), *content_events(mail, True)):
        event.encode()  # raises LocalError for what no packet can carry
        known = plain_macros(macros.before(event))
        match event:
            case m.Connect():
                collector.connected(event.host, event.family, event.address, event.port, known)
            case m.Helo():
                collector.helo(event.name, known)
            case m.MailFrom():
                collector.sender(event.address, event.args, known)
            case m.RcptTo():
                collector.recipient(event.address, event.args)
            case m.Header():
                collector.header(event.name, event.value)
            case m.BodyChunk():
                collector.body(event.octets)
            case m.EndOfMessage():
                collector.macros(known)


def _envelope_events(mail: Mail) -> Iterator[m.CommandMessage]:
    envelope = mail.envelope
    yield m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args)
    for each in envelope.recipients:
        yield m.RcptTo(b"<%b>" % each.address, each.args)


def _session(mail: Mail, options: Options) -> tuple[Session, str]:
    """The session as the hosts see it, and why the mail goes the way it goes."""
    collector = Collector(options)
    _tell(replace(mail, headers=(), body=BytesBody()), collector)
    session = collector.mail().session
    collector.forget()
    macros = session.macros
    if session.direction is Direction.INBOUND:
        why = "not authenticated, and from no trusted network or daemon name"
    elif macros.get("auth_authen") or macros.get("auth_type"):
        why = "authenticated"
    elif macros.get("daemon_name") in options.daemon_names:
        why = "by a listener in milterd.daemon_names"
    else:
        why = "from a client in milterd.trusted_networks"
    return session, why


class _Faults:
    """A host's log, of which only failures are kept."""

    def __init__(self) -> None:
        self.said = ""

    def info(self, event: str, **facts: Any) -> None:
        """Passed over."""

    def error(self, event: str, **facts: Any) -> None:  # noqa: ARG002  # a log's signature
        """Kept: what was raised."""
        error = facts.get("exc_info")
        self.said = f"{type(error).__name__}: {error}"

    warning, exception = info, error
