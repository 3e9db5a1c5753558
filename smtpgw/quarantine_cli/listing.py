"""`smtpgw quarantine list`: as the queue is listed, with what caught each mail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer

from milterd.base.escaping import escape
from milterd.base.spread import spread
from smtpgw.quarantine_cli.filters import EVERYTHING, Given
from smtpgw.queue.states import MailState
from smtpgw.queue.store import QueuedMail
from smtpgw.queue_cli.common import (
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    Opened,
    after_id,
    looking,
    moment,
    opened,
    say,
    say_json,
    text,
)

_HEADING = "--Quarantine ID-- --Size-- ---Arrival Time---- --Sender/Recipient------"
_WIDTH = 76
_MARKS = {MailState.RELEASING: "*", MailState.AWAITING: "+", MailState.CORRUPT: "?"}


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
    """List the mails in quarantine, oldest first: an id with `*` is being released, with `+`
    awaits a milter, with `?` corrupt."""
    with opened(config) as queue, looking() as progress:
        found = given.mails(queue, progress, after)
        mails = islice(found, limit or None)
        if as_json:
            for each in mails:
                say_json(summary(queue, each))
        else:
            _print(mails, found)


def summary(queue: Opened, mail: QueuedMail) -> dict[str, Any]:
    """A mail in short, for programs."""
    expires = queue.tool.expiry(mail.queue_id)
    caught = mail.caught
    return {
        "queue_id": mail.queue_id,
        "state": mail.state.name.lower(),
        "arrived": moment(mail.arrived),
        "expires": None if expires is None else moment(expires),
        "size": mail.size,
        "sender": text(mail.sender),
        "recipients": [text(each.address) for each in mail.recipients],
        "direction": mail.session.direction.value,
        "listener": escape(caught.listener) if caught else "",
        "findings": [
            {
                "milter": escape(each.milter),
                "filter": escape(each.filter),
                "rule": escape(each.rule),
                "text": escape(each.text),
            }
            for each in (caught.findings if caught else ())
        ],
        "released_before": [escape(each.text) for each in (caught.passing if caught else ())],
        "note": escape(mail.note),
    }


def _print(mails: Iterator[QueuedMail], more: Iterator[QueuedMail]) -> None:
    octets, count, last = 0, 0, ""
    for each in mails:
        if not count:
            say(_HEADING)
        count, octets, last = count + 1, octets + each.size, each.queue_id
        for line in entry(each):
            say(line)
    if not count:
        say("Quarantine is empty")
        return
    end = f"-- {(octets + 1023) // 1024} Kbytes in {count} Mail{'s' if count != 1 else ''}."
    say(end if next(more, None) is None else f"{end} More: --after {last}")


def entry(mail: QueuedMail) -> Iterator[str]:
    """A mail's lines; the blank line that ends it included."""
    came = datetime.fromtimestamp(mail.arrived).astimezone().strftime("%a %b %e %H:%M:%S")
    sender = text(mail.sender) or "MAILER-DAEMON"
    yield f"{mail.queue_id + _MARKS.get(mail.state, ' '):<17} {mail.size:8d} {came} {sender}"
    for each in mail.caught.findings if mail.caught else ():
        yield f"({escape(f'{each.milter}: {each.text}')})".rjust(_WIDTH)
    if mail.note:
        yield f"({escape(mail.note)})".rjust(_WIDTH)
    for one in mail.recipients:
        yield f"{'':<47}{text(one.address)}"
    yield ""
