"""Running a fuzz target as a program: its saved seeds, or atheris where that is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"

Target = Callable[[bytes], None]
"""Takes any octets; an exception is a finding."""


def seeds(name: str) -> list[bytes]:
    """The saved inputs of a target: found faults, and a start for the search."""
    return [each.read_bytes() for each in sorted((SEEDS / name).iterdir())]


def run(targets: Mapping[str, Target], arguments: list[str]) -> int:
    """PROGRAM TARGET [atheris options]; the exit status."""
    program = Path(arguments[0]).name
    if len(arguments) < 2 or arguments[1] not in targets:
        print(f"usage: {program} {'|'.join(targets)} [atheris options]", file=sys.stderr)
        return 2
    name = arguments[1]
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: trying the saved seeds only", file=sys.stderr)
        for each in seeds(name):
            targets[name](each)
        return 0
    atheris.instrument_all()
    atheris.Setup([arguments[0], *arguments[2:], str(SEEDS / name)], targets[name])
    atheris.Fuzz()
    return 0
