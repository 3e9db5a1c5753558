"""`smtpgw queue show`: all that is known of one mail, or the mail itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from milterd.base.escaping import escape
from smtpgw.queue.store import Damaged, QueuedMail, QueuedRecipient, Tried
from smtpgw.queue.tools import QueueTool
from smtpgw.queue_cli.common import (
    DEFAULT_FILE,
    ConfigOption,
    JsonOption,
    Opened,
    moment,
    opened,
    queue_id,
    say,
    say_json,
    text,
)
from smtpgw.queue_cli.listing import summary
from smtpgw.queue_cli.why import by_site

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A queue id.", callback=queue_id)]


def show(
    queue_id: IdArgument,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    message: Annotated[
        bool, typer.Option("--message", help="Print the message itself, to the octet.")
    ] = False,
) -> None:
    """Show one mail: its envelope, why it was taken, what became of each recipient, every
    attempt with the peer's words, and its header."""
    with opened(config) as queue:
        if message:
            for piece in queue.tool.content(queue_id).pieces():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        found = details(queue, queue_id)
        if as_json:
            say_json(found)
        else:
            for line in _lines(found):
                say(line)


def details(queue: Opened, queue_id: str) -> dict[str, Any]:
    """All that is known of a mail, for programs.  Raises NotFound."""
    mail = queue.tool.show(queue_id)
    return {
        **summary(mail, by_site(queue.tool.resting(queue.now)), queue.now),
        "sender_args": [text(each) for each in mail.sender_args],
        **session(mail),
        "bounce": escape(mail.doomed),
        "decision": [
            {"filter": each.source, "outcome": each.outcome, "reason": dict(each.facts)}
            for each in mail.reasons
        ],
        "recipients": [_recipient(each) for each in mail.recipients],
        "history": [_attempt(*each) for each in queue.tool.history(queue_id)],
        "header": header(queue.tool, queue_id),
    }


def session(mail: QueuedMail) -> dict[str, Any]:
    """Where a mail came from, for programs."""
    session = mail.session
    return {
        "client": text(session.client.address),
        "client_name": text(session.client.name),
        "helo": text(session.helo),
        "direction": session.direction.value,
    }


def _recipient(each: QueuedRecipient) -> dict[str, Any]:
    return {
        "recipient": text(each.address),
        "args": [text(arg) for arg in each.args],
        "state": each.state.name.lower(),
        "status": each.enhanced,
        "reason": escape(each.text),
        "remote": escape(each.remote),
        "destination": escape(each.destination),
    }


def _attempt(number: int, tried: Tried) -> dict[str, Any]:
    return {
        "attempt": number,
        "at": moment(tried.at),
        "destination": escape(tried.destination),
        "recipients": tried.recipients,
        "outcome": tried.outcome,
        "status": tried.enhanced,
        "reason": escape(tried.text),
        "remote": escape(tried.remote),
        "seconds": round(tried.took, 3),
    }


def header(tool: QueueTool, queue_id: str) -> list[str]:
    """The header's lines; what is wrong with the mail where it cannot be read."""
    try:
        lines = tool.content(queue_id).head.split(b"\r\n")
    except Damaged as error:
        return [f"({escape(str(error))})"]
    while lines and not lines[-1]:
        del lines[-1]
    return [_line(each) for each in lines]


def _line(octets: bytes) -> str:
    """A line of a header: its tabs may stay, for folding is easier to read so."""
    shown = octets.decode("utf-8", "backslashreplace").split("\t")
    return "\t".join(escape(each) for each in shown)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        if not isinstance(value, list):
            yield f"{key}: {'' if value is None else value}"
    yield from (f"sender_arg: {each}" for each in found["sender_args"])
    for each in found["recipients"]:
        args = "".join(f" {arg}" for arg in each["args"])
        yield f"recipient: {each['recipient']}{args}, {each['state']}{_said(each)}"
    for each in found["decision"]:
        facts = "".join(
            f" {escape(str(key))}={escape(str(value))}" for key, value in each["reason"].items()
        )
        yield f"decision: {escape(each['filter'])} {escape(each['outcome'])}{facts}"
    for each in found["history"]:
        who = f"{each['recipients']} recipient{'s' if each['recipients'] != 1 else ''}"
        yield (
            f"attempt {each['attempt']}: {each['at']}, {each['destination']}, {who} "
            f"{each['outcome']} after {each['seconds']} s{_said(each)}"
        )
    yield ""
    yield from found["header"]


def _said(each: dict[str, Any]) -> str:
    """What was said, and by whom."""
    words = " ".join(part for part in (each["status"], each["reason"]) if part)
    by = f"{each['remote']}: " if each["remote"] and words else ""
    return f" ({by}{words})" if words else ""
