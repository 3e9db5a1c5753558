"""`milterlab conform --mta`: the other half of the command, which grades an MTA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab.commands.conform_card import print_card, print_checks

if TYPE_CHECKING:
    from milterd.base.sockets import SocketAddress
    from milterd.lab.mta.check import Site
    from milterd.lab.mta.grade import Options


@dataclass(frozen=True, slots=True)
class MtaOptions:
    """What the user typed of the MTA (milterd.base.spread).  Times are seconds."""

    listen: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="--mta: where the MTA finds its milter."),
    ] = None
    smtp: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="--mta: where the MTA takes mail.")
    ] = None
    sink: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="--mta: where the MTA delivers, by SMTP or LMTP, to us."
        ),
    ] = None
    accepting: Annotated[
        str | None,
        typer.Option(
            "--smtp-accepting",
            metavar="HOST:PORT",
            help="--mta: the same MTA, where its milter's default action is accept.",
        ),
    ] = None
    refused: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="--mta: a recipient the MTA refuses by itself."),
    ] = None
    domain: Annotated[
        str, typer.Option(metavar="DOMAIN", help="--mta: where it takes mail for, from us.")
    ] = "lab.example"
    command_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="--mta: seconds it waits for its milter before the content."),
    ] = 30.0
    content_timeout: Annotated[
        float,
        typer.Option(min=0.1, help="--mta: seconds it waits for its milter from there on."),
    ] = 300.0
    delivery: Annotated[
        float,
        typer.Option(
            "--deliver-within", min=0.1, help="--mta: seconds until a mail has to be at the sink."
        ),
    ] = 30.0


NO_MTA = MtaOptions()


@dataclass(frozen=True, slots=True)
class How:
    """Seconds for all, which None leaves to the MTA's limits; checks at a time; and the form."""

    deadline: float | None
    jobs: int
    as_json: bool


def conform_mta(
    mta: MtaOptions, how: How, only: Sequence[str], skip: Sequence[str], *, listing: bool
) -> int:
    """Grade the MTA, or list the checks; the exit status.  Raises typer.BadParameter."""
    from milterd.lab.conform.catalog import matching
    from milterd.lab.mta.grade import CHECKS, grade

    checks = matching(only, skip, CHECKS)
    if not checks:
        raise typer.BadParameter("no check fits; see --list", param_hint="--only, --skip")
    if listing:
        print_checks(checks, how.as_json)
        return 0
    site, options = _site(mta), _options(mta, how)
    return print_card(len(checks), lambda report: grade(site, options, checks, report), how.as_json)


def _site(mta: MtaOptions) -> Site:
    from milterd.lab.arguments import octets
    from milterd.lab.mta.check import Site

    if mta.smtp is None:
        raise typer.BadParameter("is needed: where the MTA takes mail", param_hint="--smtp")
    return Site(
        smtp=_address(mta.smtp, "--smtp"),
        accepting=_address(mta.accepting, "--smtp-accepting") if mta.accepting else None,
        refused=octets(mta.refused, "--refused") if mta.refused else None,
        domain=octets(mta.domain, "--domain"),
        command=mta.command_timeout,
        content=mta.content_timeout,
        delivery=mta.delivery,
    )


def _options(mta: MtaOptions, how: How) -> Options:
    from milterd.lab.mta.grade import Options

    if mta.listen is None:
        raise typer.BadParameter("is needed: where the MTA's milter is", param_hint="--listen")
    _address(mta.listen, "--listen")
    if mta.sink is not None:
        _address(mta.sink, "--sink")
    # The slowest check waits for nearly twice the content timeout, and a few come last.
    total = 300.0 + 10 * mta.command_timeout + 3 * mta.content_timeout
    return Options(mta.listen, mta.sink, how.jobs, how.deadline or total)


def _address(text: str, option: str) -> SocketAddress:
    from milterd.base.sockets import parse

    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from None
