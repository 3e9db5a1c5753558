"""The commands `smtpgw queue ...`: they work on the queue itself, daemon or not.

What a command changes, a running daemon sees within a second.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from milterd.base import logs
from milterd.base.settings import ConfigError
from smtpgw import config as settings
from smtpgw.queue import ids
from smtpgw.queue.states import IllegalMove, MailState
from smtpgw.queue.store import Filter, NotFound, QueuedMail, QueueError
from smtpgw.queue.tools import QueueTool

CONFIG_ERROR = 78
DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")
PAGE = 1000
_FILE_WIDTH = 240

queue = typer.Typer(
    help="Look at the queue and change it, whether the gateway runs or not.",
    no_args_is_help=True,
)

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", envvar="GATEPOST_CONFIG", help="The settings file."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
STATES = [each.name.lower() for each in MailState if each is not MailState.DONE]


def _queue_id(value: str) -> str:
    """Before an id is anything else, it is letters and digits."""
    if not ids.valid(value):
        raise typer.BadParameter("expected a queue id: 10 to 16 letters and digits")
    return value


def _queue_id_or_all(value: str) -> str:
    return value if value == "ALL" else _queue_id(value)


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A queue id.", callback=_queue_id)]
IdsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...",
        help="Queue ids.",
        callback=lambda value: [_queue_id(each) for each in value],
    ),
]
IdOrAllArgument = Annotated[
    str, typer.Argument(metavar="ID|ALL", help="A queue id, or ALL.", callback=_queue_id_or_all)
]


@queue.command("list", epilog="Example: smtpgw queue list --state hold --json")
def list_(
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    state: Annotated[
        list[str] | None, typer.Option(help=f"Only mails in this state: {', '.join(STATES)}.")
    ] = None,
) -> None:
    """List the mails in the queue, oldest first."""
    unknown = set(state or ()) - set(STATES)
    if unknown:
        raise typer.BadParameter(f"expected one of {', '.join(STATES)}", param_hint="--state")
    states = frozenset(MailState[each.upper()] for each in state or ())
    with _tool(config) as tool:
        mails = _all(tool, states)
        if as_json:
            for each in mails:
                _print_json(_summary(each))
        else:
            _print_table(mails)


@queue.command(epilog="Example: smtpgw queue show 0PmbkXzQ1a00xyz --content")
def show(
    queue_id: IdArgument,
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    content: Annotated[
        bool, typer.Option("--content", help="Print the message itself, to the octet.")
    ] = False,
) -> None:
    """Show one mail: envelope, state, why it was taken, and what became of each recipient."""
    with _tool(config) as tool:
        if content:
            for piece in tool.content(queue_id).pieces():
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        details = _details(tool.show(queue_id))
    if as_json:
        _print_json(details)
    else:
        _print_details(details)


@queue.command(epilog="Example: smtpgw queue flush ALL")
def flush(
    queue_id: IdOrAllArgument, config: ConfigOption = DEFAULT_FILE, as_json: JsonOption = False
) -> None:
    """Try a mail again now, or ALL that wait."""
    with _tool(config) as tool:
        count = tool.flush(time.time(), None if queue_id == "ALL" else queue_id)
    _report("flushed", count, as_json)


@queue.command(epilog="Example: smtpgw queue delete 0PmbkXzQ1a00xyz")
def delete(
    queue_ids: IdsArgument, config: ConfigOption = DEFAULT_FILE, as_json: JsonOption = False
) -> None:
    """Delete mails.  Nobody is told."""
    with _tool(config) as tool:
        for each in queue_ids:
            tool.delete(each)
    _report("deleted", len(queue_ids), as_json)


@queue.command(epilog="Example: smtpgw queue hold 0PmbkXzQ1a00xyz --reason 'asked the sender'")
def hold(
    queue_ids: IdsArgument,
    config: ConfigOption = DEFAULT_FILE,
    reason: Annotated[str, typer.Option(help="Why; it is shown in the queue.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Keep mails in the queue until they are released."""
    with _tool(config) as tool:
        for each in queue_ids:
            tool.hold(each, logs.escape(reason, 200))
    _report("held", len(queue_ids), as_json)


@queue.command(epilog="Example: smtpgw queue release 0PmbkXzQ1a00xyz")
def release(
    queue_ids: IdsArgument, config: ConfigOption = DEFAULT_FILE, as_json: JsonOption = False
) -> None:
    """Let held mails go."""
    with _tool(config) as tool:
        for each in queue_ids:
            tool.release(each, time.time())
    _report("released", len(queue_ids), as_json)


@contextlib.contextmanager
def _tool(path: Path) -> Iterator[QueueTool]:
    """The queue that the settings name; errors become one line and an exit code."""
    try:
        directory = settings.load(path).smtpgw.queue.directory
    except ConfigError as error:
        _complain(error)
        raise typer.Exit(CONFIG_ERROR) from None
    try:
        tool = QueueTool(directory)
        try:
            yield tool
        finally:
            tool.close()
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except (QueueError, IllegalMove, NotFound, OSError) as error:
        _complain(error)
        raise typer.Exit(1) from None


def _all(tool: QueueTool, states: frozenset[MailState]) -> Iterator[QueuedMail]:
    after = ""
    while page := tool.list(Filter(states, after, PAGE)):
        yield from page
        after = page[-1].queue_id


def _summary(mail: QueuedMail) -> dict[str, Any]:
    return {
        "queue_id": mail.queue_id,
        "state": mail.state.name.lower(),
        "arrived": _moment(mail.arrived),
        "due": None if mail.due is None else _moment(mail.due),
        "size": mail.size,
        "attempts": mail.attempts,
        "sender": _text(mail.sender),
        "recipients": [_text(each.address) for each in mail.open],
        "reason": mail.note or next((each.text for each in mail.open if each.text), ""),
    }


def _details(mail: QueuedMail) -> dict[str, Any]:
    return {
        **_summary(mail),
        "sender_args": [_text(each) for each in mail.sender_args],
        "client": _text(mail.session.client.address),
        "client_name": _text(mail.session.client.name),
        "helo": _text(mail.session.helo),
        "direction": mail.session.direction.value,
        "decision": [
            {"filter": each.source, "outcome": each.outcome, "reason": dict(each.facts)}
            for each in mail.reasons
        ],
        "recipients": [
            {
                "recipient": _text(each.address),
                "args": [_text(arg) for arg in each.args],
                "state": each.state.name.lower(),
                "status": each.enhanced,
                "reason": each.text,
                "remote": each.remote,
                "destination": each.destination,
            }
            for each in mail.recipients
        ],
    }


def _print_table(mails: Iterator[QueuedMail]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("ID", "STATE", "ARRIVED"):
        table.add_column(name, no_wrap=True)
    table.add_column("SIZE", no_wrap=True, justify="right")
    for name in ("SENDER", "RECIPIENTS", "REASON"):
        table.add_column(name, overflow="fold")
    count = 0
    for each in mails:
        count += 1
        found = _summary(each)
        row = (
            found["queue_id"],
            found["state"],
            found["arrived"],
            str(found["size"]),
            found["sender"] or "<>",
            "\n".join(found["recipients"]),
            found["reason"],
        )
        table.add_row(*(_plain(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    if count:
        console.print(table)
    console.print(f"{count} mails" if count != 1 else "1 mail", markup=False)


def _print_details(details: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key, value in details.items():
        if not isinstance(value, list):
            console.print(f"{key}: {'' if value is None else value}", markup=False)
            continue
        for each in value:
            shown = json.dumps(each, ensure_ascii=False) if isinstance(each, dict) else each
            console.print(f"{key}: {shown}", markup=False)


def _plain(cell: str) -> str:
    return "\n".join(logs.escape(line) for line in cell.split("\n")).replace("[", "\\[")


def _text(octets: bytes) -> str:
    return logs.escape(octets.decode("utf-8", "backslashreplace"))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _report(done: str, count: int, as_json: bool) -> None:
    if as_json:
        _print_json({done: count})
    else:
        Console(highlight=False).print(f"{count} {done}", markup=False)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _complain(error: object) -> None:
    Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
