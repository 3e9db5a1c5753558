"""`milterlab show` and `milterlab redact`: what is on a tape, and a copy of it without that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status

if TYPE_CHECKING:
    from milterd.lab.tape import TapeReader


def show(
    tape: Annotated[Path, typer.Argument(metavar="TAPE", help="A tape.")],
    connection: Annotated[
        int, typer.Option(min=0, help="Only this connection; 0 for all of them.")
    ] = 0,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Dump the octets of bodies, and of what is no packet."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Print what is on a tape: a line for each packet, with its time and its octet."""
    from milterd.lab.transcript import as_line, as_values, dump, tell

    with opened(tape) as reader:
        for each in tell(reader):
            if connection not in (0, each.connection):
                continue
            if as_json:
                typer.echo(json.dumps(as_values(each, raw), ensure_ascii=False))
                continue
            typer.echo(as_line(each))
            if raw:
                for row in dump(each.octets):
                    typer.echo(row)


def redact(
    tape: Annotated[Path, typer.Argument(metavar="TAPE", help="A tape.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The copy to write; there must be no such file.")
    ],
) -> None:
    """Copy a tape with contents and addresses blanked; lengths, times and codes are kept."""
    from milterd.lab.redact import redact as blank
    from milterd.lab.tape import create

    with opened(tape) as reader:
        try:
            with create(out, blank, started=reader.header.started / 1_000_000) as writer:
                for each in reader:
                    writer.write(each)
        except OSError as error:
            why = error.strerror or error
            raise typer.BadParameter(f"{out}: {why}", param_hint="OUT") from None


@contextmanager
def opened(tape: Path) -> Iterator[TapeReader]:
    """A tape to read; whatever is wrong with it is told, and ends the command."""
    from milterd.lab.tape import TapeError, reading

    try:
        with reading(tape) as reader:
            yield reader
            if reader.torn is not None:
                typer.echo(
                    f"milterlab: {tape}: octet {reader.torn.offset}: the tape is torn, "
                    f"{reader.torn.octets} octets of a record that was not finished are left out",
                    err=True,
                )
    except TapeError as error:
        typer.echo(f"milterlab: {error}", err=True)
        raise typer.Exit(status.USAGE) from None
    except OSError as error:
        if not error.filename:
            raise
        raise typer.BadParameter(f"{tape}: {error.strerror}", param_hint="TAPE") from None
