"""Mails to rows and rows to mails; whatever does not fit its checksum is `Damaged`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from milterd.base.json_text import encoder
from milterd.core.decision import Reason
from milterd.core.mail import Client, Direction, Family, Session, body_octets
from milterd.core.values import value
from smtpgw.queue import caught
from smtpgw.queue.caught import Caught
from smtpgw.queue.states import MailEvent, MailState, RecipientState, after
from smtpgw.queue.store import Damaged, NewMail, QueuedMail, QueuedRecipient

MAIL_COLUMNS = (
    "seq, id, state, due, born, arrived, size, sender, facts, sum, attempts, token, warned, note,"
    " site, doomed, flow, sole"
)
RECIPIENT_COLUMNS = "number, address, args, state, enhanced, text, remote, destination, at"

_NOTHING = type(None)
_MAIL_KINDS = frozenset(
    (int, str, int, due, float, float, int, bytes, str, *[int] * 4, *[str] * 3, flow, sole)
    for due in (float, _NOTHING)
    for flow in (int, _NOTHING)
    for sole in (bytes, _NOTHING)
)
_RECIPIENT_KINDS = (int, bytes, str, int, str, str, str, str, float)
"""What SQLite gives for what was stored: anything else is damage, whatever it would do to us."""


def _no_json(value: object) -> object:
    raise TypeError(f"{value!r} is not for a row")


_to_json = encoder(_no_json, ",", ":")

_NO_ARGS = "[]"

_LATEST = 2.0**37
"""No time of ours, in seconds, is later: it is in the year 6325."""
_MOST = 2**31
"""No mail was tried so often."""


@value
class Prepared:
    """A new mail as rows.  `body` is None where it stands in a file."""

    queue_id: str
    mail: tuple[Any, ...]
    site: str
    sender: bytes
    recipients: tuple[tuple[int, bytes, str], ...]
    content: tuple[bytes, bytes | None, int, int]
    handed: str = ""
    doomed: str = ""
    caught: Caught | None = None

    @property
    def sole(self) -> bytes | None:
        """The recipient, if there is but one, who is the address and nothing else."""
        (_, address, args), *more = self.recipients
        return None if more or args != _NO_ARGS else address

    @property
    def weight(self) -> int:
        """About how many octets this writes."""
        return len(self.content[0]) + len(self.content[1] or b"") + 2048


_DUE_AT_ONCE = frozenset({MailState.INCOMING.value, MailState.AWAITING.value})
_ARRIVED = after(None, MailEvent.ARRIVE).value
_ARRIVED_LEASED = after(None, MailEvent.ARRIVE_LEASED).value


def prepare(new: NewMail, file_sum: int | None, until: float | None = None) -> Prepared:
    """Rows for a new mail; `file_sum` is the checksum if its body stands in a file, `until` the
    end of its lease if it has one from the start."""
    head = new.mail.head()
    body: bytes | None = None
    checksum = file_sum
    if checksum is None:
        body = body_octets(new.mail.body)
        checksum = zlib.crc32(body, zlib.crc32(head))
    envelope, size = new.mail.envelope, new.mail.body.size
    recipients = tuple(
        [
            (number, each.address, _args(each.args) if each.args else _NO_ARGS)
            for number, each in enumerate(envelope.recipients)
        ]
    )
    fixed = (new.queue_id, new.arrived, len(head) + size, envelope.sender, _facts(new))
    state, due = _ARRIVED_LEASED, until
    if until is None:
        state = _arrived(new)
        due = new.born if state in _DUE_AT_ONCE else None
    row = (state, due, new.born, *fixed, _sum(fixed, recipients), new.hold or "")
    return Prepared(
        new.queue_id,
        row,
        new.site,
        envelope.sender,
        recipients,
        (head, body, size, checksum),
        new.handed,
        new.doomed,
        new.caught,
    )


def _arrived(new: NewMail) -> int:
    """The state of a mail that has no lease yet."""
    if new.caught is not None:
        event = MailEvent.ARRIVE_AWAITING if new.caught.awaiting else MailEvent.ARRIVE_CAUGHT
    elif new.hold is not None:
        event = MailEvent.ARRIVE_HELD
    else:
        return _ARRIVED
    return after(None, event).value


def _sum(fixed: Sequence[Any], recipients: Iterable[tuple[int, bytes, str]]) -> int:
    return zlib.crc32(repr((tuple(fixed), tuple(recipients))).encode())


def _args(args: Iterable[bytes]) -> str:
    return json.dumps([each.decode("latin-1") for each in args])


def _unargs(text: str) -> tuple[bytes, ...]:
    return () if text == _NO_ARGS else tuple(each.encode("latin-1") for each in json.loads(text))


def _facts(new: NewMail) -> str:
    args, told = new.mail.envelope.sender_args, _session_facts(new.mail.session)
    reasons, more = "[]", ""
    if new.reasons:
        reasons = _to_json([[e.source, e.outcome, dict(e.facts)] for e in new.reasons])
    if new.filtered:  # mails of older versions have none, and need not be rewritten for it
        more = f',"filter":{_to_json(new.filtered)}'
    if new.caught is not None:
        more += f',"caught":{_to_json(caught.to_facts(new.caught))}'
    return f'{{"args":{_args(args) if args else _NO_ARGS},{told},"reasons":{reasons}{more}}}'


_SESSIONS = 500
"""So many sessions at most are known by their facts."""
_known: dict[int, tuple[Session, str]] = {}


def _session_facts(session: Session) -> str:
    """The members of a session, which is one object for most of its mails."""
    known = _known.get(id(session))
    if known is not None and known[0] is session:
        return known[1]
    if len(_known) >= _SESSIONS:
        _known.clear()
    client = session.client
    facts = {
        "client": [
            client.name.decode("latin-1"),
            client.family.value.decode("latin-1"),
            client.address.decode("latin-1"),
            client.port,
        ],
        "helo": session.helo.decode("latin-1"),
        "direction": session.direction.value,
        "macros": {key: value.decode("latin-1") for key, value in session.macros.items()},
    }
    text = _to_json(facts)[1:-1]
    _known[id(session)] = session, text
    return text


def recipient(row: Sequence[Any]) -> QueuedRecipient:
    """A recipient from its columns.  Raises :class:`Damaged`, ValueError."""
    if tuple(map(type, row)) != _RECIPIENT_KINDS or not _a_time(row[-1]):
        raise Damaged(f"recipient {row[0]!r} cannot be read")
    number, address, args, state, enhanced, text, remote, destination, at = row
    return QueuedRecipient(
        number,
        address,
        _unargs(args),
        RecipientState(state),
        enhanced,
        text,
        remote,
        destination,
        at,
    )


def mail(row: Sequence[Any], rcpt_rows: Sequence[Sequence[Any]]) -> QueuedMail:
    """A mail from its columns and its recipients' ones, which there are none of where the mail's
    row has the only one.  Raises :class:`Damaged`."""
    _, queue_id, state, due, born, arrived, size, sender, text, checksum = row[:10]
    attempts, token, warned, note, site, doomed, _, sole = row[10:]
    if sole is not None:
        rcpt_rows = [(0, sole, _NO_ARGS, RecipientState.PENDING.value, "", "", "", "", 0.0)]
    try:
        if tuple(map(type, row)) not in _MAIL_KINDS:
            raise Damaged("row cannot be read")
        fixed = (queue_id, arrived, size, sender, text)
        if _sum(fixed, [tuple(each[:3]) for each in rcpt_rows]) != checksum:
            raise Damaged("envelope is not what was stored")
        if not (_a_time(born) and 0 <= attempts < _MOST and 0 <= token < _MOST):
            raise Damaged("row cannot be right")
        facts = json.loads(text)
        return QueuedMail(
            queue_id=queue_id,
            state=MailState(state),
            sender=sender,
            sender_args=tuple(each.encode("latin-1") for each in facts["args"]),
            session=_session(facts),
            size=size,
            arrived=arrived,
            born=born,
            due=due,
            attempts=attempts,
            warned=bool(warned),
            note=note,
            reasons=tuple(Reason(*each) for each in facts["reasons"]),
            recipients=tuple(recipient(each) for each in rcpt_rows),
            site=site,
            doomed=doomed,
            filtered=str(facts.get("filter", "")),
            caught=caught.from_facts(facts["caught"]) if "caught" in facts else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"row cannot be read: {error}") from error


def _a_time(seconds: float) -> bool:
    return -_LATEST < seconds < _LATEST


def _session(facts: dict[str, Any]) -> Session:
    name, family, address, port = facts["client"]
    return Session(
        Client(
            name.encode("latin-1"),
            Family(family.encode("latin-1")),
            address.encode("latin-1"),
            port,
        ),
        facts["helo"].encode("latin-1"),
        Direction(facts["direction"]),
        {key: value.encode("latin-1") for key, value in facts["macros"].items()},
    )


def damaged_mail(row: Sequence[Any], reason: str) -> QueuedMail:
    """What can be said of a mail whose row is damaged, for lists."""

    def octets(value: object) -> bytes:
        return value if isinstance(value, bytes) else b""

    def seconds(value: object) -> float:
        return float(value) if isinstance(value, int | float) and _a_time(value) else 0.0

    return QueuedMail(
        queue_id=str(row[1]),
        state=MailState.CORRUPT,
        sender=octets(row[7]),
        sender_args=(),
        session=Session(),
        size=max(int(seconds(row[6])), 0),
        arrived=seconds(row[5]),
        born=seconds(row[4]),
        due=None,
        attempts=max(int(seconds(row[10])), 0),
        warned=bool(row[12]),
        note=str(row[13] or reason),
        reasons=(),
        recipients=(),
    )
