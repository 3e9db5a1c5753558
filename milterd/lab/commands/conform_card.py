"""What `milterlab conform` prints, be it of a milter or of an MTA."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import typer

from milterd.lab import status

if TYPE_CHECKING:
    from milterd.lab.conform.check import Check
    from milterd.lab.conform.grade import Graded

Work = Callable[[Callable[["Graded"], None]], Coroutine[Any, Any, "list[Graded]"]]
"""Grades, and reports each check as it ends."""


def print_card(total: int, work: Work, as_json: bool) -> int:
    """Run the work, print its card, and give the exit status."""
    import asyncio

    from milterd.base.escaping import escape
    from milterd.base.sockets import SocketError
    from milterd.lab.conform.report import as_lines, as_values, failed
    from milterd.lab.link import MilterError
    from milterd.lab.mta.check import MtaError

    counter = _Counter(total)
    try:
        card = asyncio.run(work(counter))
    except (MilterError, MtaError) as error:
        typer.echo(f"milterlab: {escape(str(error))}", err=True)
        return status.GONE
    except (ValueError, SocketError) as error:
        typer.echo(f"milterlab: {error}", err=True)
        return status.USAGE
    finally:
        counter.done()
    if as_json:
        for each in card:
            typer.echo(json.dumps(as_values(each), ensure_ascii=False))
    else:
        for line in as_lines(card):
            typer.echo(line)
    return status.BAD if failed(card) else status.GOOD


def print_checks(checks: Sequence[Check], as_json: bool) -> None:
    """The checks themselves, none of them tried."""
    for each in checks:
        if as_json:
            fields = {"id": each.name, "title": each.title, "rule": each.rule}
            typer.echo(json.dumps({**fields, "source": each.source}, ensure_ascii=False))
        else:
            typer.echo(f"{each.name}: {each.title}")


class _Counter:
    """How far it is, on a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._ended = total, 0
        self._shown = sys.stderr.isatty()

    def __call__(self, graded: Graded) -> None:
        self._ended += 1
        if self._shown:
            line = f"\r{self._ended}/{self._total} {graded.check.name:<48}"
            typer.echo(line, err=True, nl=False)

    def done(self) -> None:
        """Take the line away."""
        if self._shown:
            typer.echo(f"\r{'':60}\r", err=True, nl=False)
