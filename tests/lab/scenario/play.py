"""What the tests of scenarios share."""

from __future__ import annotations

import asyncio
from pathlib import Path

from milterd.lab.link import Patience
from milterd.lab.scenario.parse import parse
from milterd.lab.scenario.run import Outcome, run


def play(
    text: str, address: str, *, answer: float = 10.0, total: float = 30.0, at: Path | None = None
) -> Outcome:
    """What comes of a scenario, as if it were the file x.milter (in `at`)."""
    name = "x.milter" if at is None else str(at / "x.milter")
    scenario = parse(text.encode(), name)
    return asyncio.run(run(scenario, socket=address, patience=Patience(answer, total)))


def told(outcome: Outcome) -> list[tuple[int, str]]:
    """Its failures as lines and texts."""
    return [(each.line, each.text) for each in outcome.failures]
