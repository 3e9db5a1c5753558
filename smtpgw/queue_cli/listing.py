"""`smtpgw queue list`: as postqueue(1) -p shows a queue, or one JSON object a mail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer

from milterd.base.escaping import escape
from milterd.base.spread import spread
from smtpgw.queue.states import MailState
from smtpgw.queue.store import QueuedMail
from smtpgw.queue_cli.common import (
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    after_id,
    looking,
    moment,
    opened,
    say,
    say_json,
    text,
)
from smtpgw.queue_cli.filters import EVERYTHING, Given
from smtpgw.queue_cli.why import Rests, by_site, reason, why

_HEADING = "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------"
_WIDTH = 76
_MARKS = {MailState.ACTIVE: "*", MailState.HOLD: "!", MailState.CORRUPT: "?"}
DOOMED = "#"


@spread
def list_(
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    given: Given = EVERYTHING,
    limit: Annotated[int, typer.Option(help="At most so many mails; 0 means all.", min=0)] = 0,
    after: Annotated[
        str, typer.Option(metavar="ID", help="Only mails after this one.", callback=after_id)
    ] = "",
) -> None:
    """List the mails in the queue, oldest first: an id with `*` is in delivery, with `!` on
    hold, with `#` to be bounced, with `?` corrupt."""
    with opened(config) as queue, looking() as progress:
        found = queue.tool.search(given.filter(after), queue.now, progress)
        rests = by_site(queue.tool.resting(queue.now))
        mails = islice(found, limit or None)
        if as_json:
            for each in mails:
                say_json(summary(each, rests, queue.now))
        else:
            _print(mails, rests, queue.now, more=found)


def summary(mail: QueuedMail, rests: Rests, now: float) -> dict[str, Any]:
    """A mail in short, for programs."""
    found = why(mail, rests, now)
    return {
        "queue_id": mail.queue_id,
        "state": mail.state.name.lower(),
        "arrived": moment(mail.arrived),
        "due": None if mail.due is None else moment(mail.due),
        "size": mail.size,
        "attempts": mail.attempts,
        "sender": text(mail.sender),
        "recipients": [text(each.address) for each in mail.open],
        "destination": escape(mail.site),
        "resting_until": None if found.until is None else moment(found.until),
        "reason": reason(mail, found),
    }


def _print(
    mails: Iterator[QueuedMail], rests: Rests, now: float, more: Iterator[QueuedMail]
) -> None:
    octets, count, last = 0, 0, ""
    for each in mails:
        if not count:
            say(_HEADING)
        count, octets, last = count + 1, octets + each.size, each.queue_id
        for line in entry(each, rests, now):
            say(line)
    if not count:
        say("Mail queue is empty")
        return
    end = f"-- {(octets + 1023) // 1024} Kbytes in {count} Request{'s' if count != 1 else ''}."
    say(end if next(more, None) is None else f"{end} More: --after {last}")


def entry(mail: QueuedMail, rests: Rests, now: float) -> Iterator[str]:
    """A mail's lines, as showq(8) has them; the blank line that ends it included."""
    mark = DOOMED if mail.doomed else _MARKS.get(mail.state, " ")
    came = datetime.fromtimestamp(mail.arrived).astimezone().strftime("%a %b %e %H:%M:%S")
    sender = text(mail.sender) or "MAILER-DAEMON"
    yield f"{mail.queue_id + mark:<17} {mail.size:8d} {came} {sender}"
    found = why(mail, rests, now).text
    if found:
        yield f"({found})".rjust(_WIDTH)
    said = found
    for each in mail.open:
        own = escape(each.text)
        if not mail.note and own and own != said:
            yield f"({own})".rjust(_WIDTH)
            said = own
        yield f"{'':<47}{text(each.address)}"
    yield ""
