"""The command `milterlab explain`; what it needs is loaded when it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from milterd.lab import status
from milterd.lab.options import (
    AuthOption,
    ClientOption,
    HeloOption,
    MacroOption,
    RecipientsOption,
    SenderOption,
)

if TYPE_CHECKING:
    from milterd.config import MilterdConfig
    from milterd.explain.order import Place
    from milterd.explain.road import Road
    from milterd.filters import CheckedFilter


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The message; - is standard input.")],
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The settings file of milterd.")
    ] = Path("/etc/gatepost/gatepost.toml"),
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="NAME", help="Only this filter; may be repeated, in order."
        ),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to take for the outside world's answers."),
    ] = None,
    save_facts: Annotated[
        Path | None,
        typer.Option("--save-facts", metavar="FILE", help="Write what it answered, for --facts."),
    ] = None,
    sender: SenderOption = "sender@example.org",
    recipients: RecipientsOption = None,
    client: ClientOption = "localhost[127.0.0.1]",
    helo: HeloOption = "localhost",
    auth: AuthOption = None,
    macro: MacroOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the mail with its edits here.")
    ] = None,
) -> None:
    """Run our own filters on a message without a socket, and say why they decide as they do.

    The filters are those of the settings file, asked as their hosts ask them: clamd and the
    keys are the real ones, unless --facts takes their place.
    """
    from milterd.explain.road import PASSED, walk
    from milterd.lab.arguments import (
        session_of,
    )
    from milterd.lab.one_mail import envelope_of, read_one
    from milterd.wire.errors import LocalError

    session = session_of(client, helo, auth, macro or [])
    mail = read_one(file, session, envelope_of(sender, recipients))
    settings, row, built = _filters(config, filters or [])
    given = _given(facts, settings, built)
    try:
        road = walk(settings, row, built, mail, given)
    except LocalError as error:
        _fail(f"{file}: {error}")
    _report(str(file), road, built, as_json)
    if save_facts is not None:
        _write(save_facts, _facts_text(str(file), road, built).encode())
    if out is not None and road.last.verdict in PASSED:
        _write(out, b"".join(road.mail.pieces()))
    raise typer.Exit(status.GOOD if road.passed else status.BAD)


def _filters(
    config: Path, names: list[str]
) -> tuple[MilterdConfig, list[Place], dict[str, CheckedFilter]]:
    """The settings, the filters to ask in their order, and the filters built."""
    from milterd.base.toml_file import ConfigError
    from milterd.config import load
    from milterd.explain.order import places
    from milterd.explain.road import build_all
    from milterd.filters.setup import SetupError

    try:
        settings = load(config)
    except ConfigError as error:
        _fail(*map(str, error.problems))
    row = places(config, settings)
    if not row:
        _fail(f"{config}: no table [filter.NAME], so there is nothing to ask")
    there = {each.name: each for each in row}
    for name in names:
        if name not in there:
            known = ", ".join(there)
            raise typer.BadParameter(
                f"{name!r} is not in {config} (there: {known})", param_hint="--filter"
            )
    row = [there[name] for name in names] or row
    try:
        return settings, row, build_all(settings, [each.name for each in row])
    except SetupError as error:
        _fail(*(f"{config}: {each}" for each in error.problems))


def _given(
    path: Path | None, settings: MilterdConfig, built: dict[str, CheckedFilter]
) -> dict[str, Any]:
    """The facts of a file, by filter; those of filters that are not asked are left alone."""
    from milterd.base.toml_file import ConfigError
    from milterd.explain.facts import UnwritableError, facts_type, read

    if path is None:
        return {}
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--facts") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path}: is not UTF-8", param_hint="--facts") from None
    hints = {name: facts_type(each) for name, each in built.items()}
    others = settings.filter.present().keys() - hints.keys()
    try:
        return read(text, str(path), hints, others)
    except ConfigError as error:
        _fail(*map(str, error.problems))
    except UnwritableError as error:
        _fail(f"{path}: {error}")


def _report(name: str, road: Road, built: dict[str, CheckedFilter], as_json: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from milterd.explain.facts import facts_type
    from milterd.explain.show import as_lines, as_values

    hints = {name: facts_type(each) for name, each in built.items()}
    if as_json:
        typer.echo(json.dumps(as_values(name, road, hints), ensure_ascii=False))
        return
    console = Console(soft_wrap=True, highlight=False)
    for style, line in as_lines(name, road, hints):
        console.print(Text(line, style))


def _facts_text(name: str, road: Road, built: dict[str, CheckedFilter]) -> str:
    from milterd.explain.facts import UnwritableError, facts_type, text_of
    from milterd.explain.show import facts_of

    tables: dict[str, dict[str, Any]] = {}
    for stop in road.stops:
        try:
            hint = facts_type(built[stop.name])
            found = None if stop.answer is None else facts_of(stop.answer, hint)
        except UnwritableError as error:
            _fail(f"{stop.name}: {error}")
        if found is not None:
            tables[stop.name] = found
    return text_of(tables, f"What the outside world said about {name!a}")


def _write(path: Path, octets: bytes) -> None:
    try:
        path.write_bytes(octets)
    except OSError as error:
        _fail(f"cannot write {path}: {error.strerror}")


def _fail(*problems: str) -> NoReturn:
    for each in problems:
        typer.echo(f"milterlab: {each}", err=True)
    raise typer.Exit(status.USAGE)
