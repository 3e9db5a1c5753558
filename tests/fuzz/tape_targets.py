"""Fuzz target of tapes: any octets are a tape, a torn tape, or refused with TapeError.

`python tests/fuzz/tape_targets.py tape` runs it under atheris, where that is installed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milterd.lab.tape_codec import Note, Record, TapeError, TapeReader, encode
from tests.fuzz.driver import Target, run


def fuzz_tape(data: bytes) -> None:
    """TapeReader: what it takes is written the same again, so that no two readings exist."""
    try:
        reader = TapeReader(io.BytesIO(data), "fuzz")
    except TapeError:
        return
    found: list[Record] = []
    try:
        found.extend(reader)
    except TapeError:
        return
    again, before = reader.header.encode(), 0
    for each in found:
        again += encode(each, before)
        before = each.at
    torn = reader.torn.octets if reader.torn else 0
    # The text of a note may have been made readable.
    if not any(isinstance(each, Note) for each in found):
        assert again == data[: len(data) - torn]


TARGETS: dict[str, Target] = {"tape": fuzz_tape}


if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
