"""A scenario from its file to its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from milterd.lab import status
from milterd.lab.link import Patience
from milterd.lab.scenario.parse import parse
from milterd.lab.scenario.run import Failure, Outcome, run
from milterd.lab.scenario.steps import ScenarioError


def play_file(
    path: Path,
    variables: Mapping[str, bytes],
    *,
    socket: str | None = None,
    default: str = "",
    patience: Patience | None = None,
) -> Outcome:
    """Read and play the scenario in a file; what is wrong with the file is in the outcome.

    `socket` goes before the scenario's own address, `default` after it.
    """
    try:
        scenario = parse(path.read_bytes(), str(path), variables)
    except OSError as error:
        failure = Failure(1, f"cannot be read: {error.strerror}")
        return Outcome(str(path), status.USAGE, (failure,))
    except ScenarioError as error:
        return Outcome(str(path), status.USAGE, (Failure(error.line, error.message),))
    return asyncio.run(run(scenario, socket=socket, default=default, patience=patience))
