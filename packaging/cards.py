"""The report cards in docs/lab/cards, written anew: `python packaging/cards.py [NAME...]`.

Starts each peer of the table, grades it, and ends with status 1 if one of ours fails, or a fail
of another has no scenario that reproduces it, or no explanation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.lab.cards import card as cards
from tests.lab.cards import mtas
from tests.lab.cards.milters import SUBJECTS

TABLE: dict[str, cards.Card] = {each.name: each.card for each in SUBJECTS}
TABLE |= {each.name: each for each in mtas.CARDS}
"""Every card by its name."""
WORKERS = 3
"""Peers at a time: most of the time is waited for."""


def troubles(card: cards.Card, rows: Sequence[cards.Row]) -> list[str]:
    """What has to be mended before these results may be published."""
    fails = [each for each in rows if each.result == "fail"]
    if card.ours:
        return [f"{card.name}: fails {each.check}: {each.seen}" for each in fails]
    if card.explained:
        text = (cards.CARDS / card.explained).read_text()
        missing = [each for each in fails if f"`{each.check}`" not in text]
        return [f"{card.name}: {card.explained} does not name {each.check}" for each in missing]
    missing = [each for each in fails if not cards.scenario(card.name, each.check).exists()]
    return [f"{card.name}: no scenario for {each.check}: {each.seen}" for each in missing]


def write(
    names: Annotated[
        list[str] | None, typer.Argument(help="Cards to write; all if none is named.")
    ] = None,
) -> None:
    """Grade, and write the pages and their index."""
    unknown = set(names or ()) - set(TABLE)
    if unknown:
        typer.echo(f"no such card: {', '.join(unknown)}; there are {', '.join(TABLE)}", err=True)
        raise typer.Exit(64)
    cards.CARDS.mkdir(exist_ok=True)
    found: list[str] = []
    wanted = [TABLE[each] for each in names or TABLE]
    with ThreadPoolExecutor(WORKERS) as pool:
        # Those that take longest are at the end of the table.
        started = {each.name: pool.submit(each.grade) for each in reversed(wanted)}
        for card in wanted:
            rows = started[card.name].result()
            (cards.CARDS / f"{card.name}.md").write_text(cards.page(card, rows))
            found += troubles(card, rows)
            typer.echo(f"{card.name}: {cards.counted(rows)}")
    pages = {each: cards.CARDS / f"{each}.md" for each in TABLE}
    texts = {each: path.read_text() for each, path in pages.items() if path.exists()}
    (cards.CARDS / "README.md").write_text(cards.index(texts))
    for each in found:
        typer.echo(each, err=True)
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(write)
