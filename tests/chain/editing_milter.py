"""A libmilter milter, by pymilter, that makes the edits a file names, read anew each time.

Usage: editing_milter.py SOCKET FILE; the file holds a JSON list of method and arguments
as pymilter has them, such as ["chgheader", "Subject", 1, "new"].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import Milter


class Editing(Milter.Base):  # type: ignore[misc] # pymilter has no types
    """Edits at end of message, accepts nothing early."""

    def envfrom(self, _sender: str, *_args: str) -> int:
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        for method, *arguments in json.loads(Path(sys.argv[2]).read_text()):
            body = method == "replacebody"
            getattr(self, method)(*([each.encode() for each in arguments] if body else arguments))
        return int(Milter.CONTINUE)


def main() -> None:
    Milter.factory = Editing
    Milter.set_flags(
        Milter.ADDHDRS
        | Milter.CHGHDRS
        | Milter.CHGBODY
        | Milter.ADDRCPT
        | Milter.DELRCPT
        | Milter.CHGFROM
    )
    Milter.runmilter("editing", f"unix:{sys.argv[1]}", 60)


if __name__ == "__main__":
    main()
