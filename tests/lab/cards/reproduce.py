"""The scenarios that reproduce the fails of a card: where they are, and how they are played.

`tests/scenarios/conform/CARD/CHECK.milter` (the id's slash is a dash) says what is right, and
so fails against that milter: at the line below the comment `fails here`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from milterd.lab.link import Patience
from milterd.lab.scenario.parse import parse
from milterd.lab.scenario.run import Outcome, run
from tests.lab.cards.card import SCENARIOS
from tests.peers.milter import Program

_PATIENCE = Patience(answer=10.0, total=30.0)
_MARK = b"# fails here"


def scenarios(card: str = "*") -> list[Path]:
    """Those of a card, or all."""
    return sorted(SCENARIOS.glob(f"{card}/*.milter"))


def line_that_fails(path: Path) -> int:
    """The line below the mark, counted from 1."""
    lines = [each.strip() for each in path.read_bytes().splitlines()]
    return lines.index(_MARK) + 2


def play(path: Path, address: str) -> Outcome:
    """What comes of a scenario."""
    scenario = parse(path.read_bytes(), path.name)
    return asyncio.run(run(scenario, socket=address, patience=_PATIENCE))


def play_all(
    paths: list[Path], program: Program, *, dies: bool = False
) -> Iterator[tuple[Path, Outcome]]:
    """What comes of each.  A milter that `dies` of some is started for each of them: it may answer
    a scenario, and its next connection, before it is gone."""
    for some in [[each] for each in paths] if dies else [paths]:
        with program.run():
            for path in some:
                yield path, play(path, program.address)
