"""`milterlab conform --mta`: the other half of the command, which grades an MTA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from milterd.lab.commands.conform_card import print_card, print_checks

if TYPE_CHECKING:
    from milterd.base.sockets import SocketAddress
    from milterd.lab.mta.check import Site
    from milterd.lab.mta.grade import Options


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user typed.  Times are seconds; `deadline` None leaves it to the limits."""

    listen: str | None
    smtp: str | None
    sink: str | None
    accepting: str | None
    refused: str | None
    domain: str
    command_timeout: float
    content_timeout: float
    delivery: float
    deadline: float | None
    jobs: int
    as_json: bool


def conform_mta(wishes: Wishes, only: Sequence[str], skip: Sequence[str], *, listing: bool) -> int:
    """Grade the MTA, or list the checks; the exit status.  Raises typer.BadParameter."""
    from milterd.lab.conform.catalog import matching
    from milterd.lab.mta.grade import CHECKS, grade

    checks = matching(only, skip, CHECKS)
    if not checks:
        raise typer.BadParameter("no check fits; see --list", param_hint="--only, --skip")
    if listing:
        print_checks(checks, wishes.as_json)
        return 0
    site, options = _site(wishes), _options(wishes)
    return print_card(
        len(checks), lambda report: grade(site, options, checks, report), wishes.as_json
    )


def _site(wishes: Wishes) -> Site:
    from milterd.lab.arguments import octets
    from milterd.lab.mta.check import Site

    if wishes.smtp is None:
        raise typer.BadParameter("is needed: where the MTA takes mail", param_hint="--smtp")
    return Site(
        smtp=_address(wishes.smtp, "--smtp"),
        accepting=_address(wishes.accepting, "--smtp-accepting") if wishes.accepting else None,
        refused=octets(wishes.refused, "--refused") if wishes.refused else None,
        domain=octets(wishes.domain, "--domain"),
        command=wishes.command_timeout,
        content=wishes.content_timeout,
        delivery=wishes.delivery,
    )


def _options(wishes: Wishes) -> Options:
    from milterd.lab.mta.grade import Options

    if wishes.listen is None:
        raise typer.BadParameter("is needed: where the MTA's milter is", param_hint="--listen")
    _address(wishes.listen, "--listen")
    if wishes.sink is not None:
        _address(wishes.sink, "--sink")
    # The slowest check waits for nearly twice the content timeout, and a few come last.
    total = 300.0 + 10 * wishes.command_timeout + 3 * wishes.content_timeout
    return Options(wishes.listen, wishes.sink, wishes.jobs, wishes.deadline or total)


def _address(text: str, option: str) -> SocketAddress:
    from milterd.base.sockets import parse

    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from None
