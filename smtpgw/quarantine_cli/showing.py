"""`smtpgw quarantine show`: all that is known of one mail, or the mail itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from milterd.base.escaping import escape
from smtpgw.quarantine_cli.listing import summary
from smtpgw.queue.store import NotFound, QueuedMail
from smtpgw.queue_cli.common import (
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    Opened,
    opened,
    say,
    say_json,
    text,
)
from smtpgw.queue_cli.showing import IdArgument, header, session


def show(
    queue_id: IdArgument,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    message: Annotated[
        bool, typer.Option("--message", help="Print the message as it came, to the octet.")
    ] = False,
) -> None:
    """Show one mail in quarantine: what caught it, its envelope, why each filter decided as it
    did, and its header."""
    with opened(config) as queue:
        mail = _kept(queue, queue_id)
        if message:
            for piece in queue.tool.content(queue_id).pieces():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        found = _details(queue, mail)
        if as_json:
            say_json(found)
        else:
            for line in _lines(found):
                say(line)


def _kept(queue: Opened, queue_id: str) -> QueuedMail:
    """The mail.  Raises NotFound for one that is not in quarantine."""
    if queue.tool.expiry(queue_id) is None:
        raise NotFound(f"{queue_id}: not in quarantine")
    return queue.tool.show(queue_id)


def _details(queue: Opened, mail: QueuedMail) -> dict[str, Any]:
    short = summary(queue, mail)
    del short["direction"], short["recipients"]
    macros = mail.caught.macros if mail.caught else {}
    return {
        **short,
        "sender_args": [text(each) for each in mail.sender_args],
        "recipients": [
            {"recipient": text(each.address), "args": [text(arg) for arg in each.args]}
            for each in mail.recipients
        ],
        **session(mail),
        "login": text(macros.get("auth_authen", b"")),
        "macros": {escape(name): text(value) for name, value in macros.items()},
        "decision": [
            {"filter": each.source, "outcome": each.outcome, "reason": dict(each.facts)}
            for each in mail.reasons
        ],
        "header": header(queue.tool, mail.queue_id),
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        if not isinstance(value, list | dict):
            yield f"{key}: {'' if value is None else value}"
    for each in found["findings"]:
        yield f"finding: {each['milter']}: {each['text']}"
    yield from (f"released before: {each}" for each in found["released_before"])
    yield from (f"sender_arg: {each}" for each in found["sender_args"])
    for each in found["recipients"]:
        yield f"recipient: {' '.join((each['recipient'], *each['args']))}"
    yield from (f"macro: {name}={value}" for name, value in found["macros"].items())
    for each in found["decision"]:
        facts = "".join(
            f" {escape(str(key))}={escape(str(value))}" for key, value in each["reason"].items()
        )
        yield f"decision: {escape(each['filter'])} {escape(each['outcome'])}{facts}"
    yield ""
    yield from found["header"]
