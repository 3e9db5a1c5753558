"""A mail as packets made beforehand: all that is left to do for each mail is to number it.

A step is what an MTA writes before it must wait: one event that is answered, with its
macros, and in front of it the events that get no answer.  A mail's number stands in
its Message-ID and in the first line of its body, since scanners know a mail they
have seen again by its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from milterd.core.mail import (
    BytesBody,
    Client,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from milterd.lab.bench.histogram import Histogram
from milterd.lab.link import STAGES
from milterd.lab.postfix import Macros, content_events, session_events
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Protocol
from milterd.wire.states import (
    COMMAND_OF,
    EVENTS,
    CommandType,
    unanswered_commands,
    unsent_commands,
)

NUMBER = b"@@@@NUMBER@@@@@@"
"""Where a mail's number goes: as many hexadecimal digits."""
NUMBER_FORMAT = b"%016x"
_LINE = b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n"

_FIELDS = (
    (b"Message-ID", b" <" + NUMBER + b"@bench.example.net>"),
    (b"From", b" A Sender <sender@example.net>"),
    (b"To", b" A Recipient <recipient@example.org>"),
    (b"Subject", b" a plain subject of some length"),
    (b"Date", b" Fri, 21 Nov 2025 09:00:00 +0000"),
    (b"MIME-Version", b" 1.0"),
    (b"Content-Type", b" text/plain; charset=utf-8"),
    (b"User-Agent", b" Mutt/2.2.9"),
    (b"Received", b" from a.example (a.example [192.0.2.1])\r\n\tby b.example with ESMTP id 4XYZ"),
    (b"Reply-To", b" sender@example.net"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """What to write, the event whose answer is due then, its stage, and where to count
    the time that the answer takes.

    The octets are `parts` with the mail's number between them, then `rest`; where no
    number stands in them, all are in `rest`.
    """

    asked: CommandType
    stage: str
    record: Callable[[int], None]
    parts: tuple[bytes, ...]
    rest: bytes = b""

    def octets(self, number: bytes) -> bytes:
        """All of it, for one mail."""
        if not self.parts:
            return self.rest
        return number.join(self.parts) + self.rest


@dataclass(frozen=True, slots=True)
class Script:
    """A connection's steps, what goes before its first mail, and the steps of each mail."""

    session: tuple[Step, ...]
    carried: bytes
    mail: tuple[Step, ...]


def message(size: int, headers: int) -> Mail:
    """A mail of about `size` octets with so many header fields.

    The header is as long as it is: a smaller size gives a mail with one short line.
    """
    more = ((b"X-Bench-%d" % number, b" some value of a field") for number in range(headers))
    fields = [HeaderField(*each) for each in (*_FIELDS, *more)][:headers]
    empty = Mail(
        Session(Client(b"localhost", Family.INET, b"127.0.0.1", 25000), b"localhost"),
        Envelope(b"sender@example.net", (), (Recipient(b"recipient@example.org"),)),
        tuple(fields),
    )
    body = NUMBER + b" is this mail's number\r\n"
    left = size - empty.size - len(body)
    if left > 2:
        body += (_LINE * (left // len(_LINE) + 1))[: left - 2].removesuffix(b"\r") + b"\r\n"
    return replace(empty, body=BytesBody(body))


def script(mail: Mail, agreed: Negotiated, stages: Mapping[str, Histogram]) -> Script:
    """The steps under what was agreed; each counts in its stage's histogram."""
    macros = Macros(mail, agreed.macros)
    session, carried = _steps(session_events(mail), macros, agreed, stages)
    steps, _ = _steps(
        _mail_events(mail, agreed), macros, agreed, stages
    )  # its end is always answered
    return Script(session, carried, steps)


def _mail_events(mail: Mail, agreed: Negotiated) -> Iterator[m.CommandMessage]:
    yield m.MailFrom(b"<%b>" % mail.envelope.sender)
    for each in mail.envelope.recipients:
        yield m.RcptTo(b"<%b>" % each.address)
    yield m.Data()
    yield from content_events(mail, Protocol.HDR_LEADSPC in agreed.protocol)


def _steps(
    events: Iterable[m.CommandMessage],
    macros: Macros,
    agreed: Negotiated,
    stages: Mapping[str, Histogram],
) -> tuple[tuple[Step, ...], bytes]:
    """The steps, and the octets of the events after the last that is answered."""
    unsent = unsent_commands(agreed.protocol, agreed.version)
    unanswered = unanswered_commands(agreed.protocol)
    steps, waiting = [], b""
    for event in events:
        kind = type(event)
        told = macros.before(event)
        if kind in unsent:
            continue
        if told:
            waiting += m.Macros(COMMAND_OF[kind], told).encode()
        waiting += event.encode()
        if kind in EVENTS and kind not in unanswered:
            steps.append(_step(kind, waiting, stages[STAGES[kind]]))
            waiting = b""
    return tuple(steps), waiting


def _step(asked: CommandType, octets: bytes, counted: Histogram) -> Step:
    *numbered, last = octets.split(NUMBER)
    parts = (*numbered, b"") if numbered else ()
    return Step(asked, STAGES[asked], counted.record, parts, last)
