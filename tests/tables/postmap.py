"""The judge: Debian's postmap(1), asked for many keys in one run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers.postfix import age
from tests.peers.process import program

_LINE = re.compile(rb"warning: .*?, line (\d+): (?!duplicate entry|match limit)")


@dataclass(frozen=True, slots=True)
class Said:
    """`output`: the lines it printed; `failed`: it gave up, before the end or at once; `lines`:
    the numbers of the source lines it warned of."""

    output: tuple[bytes, ...]
    failed: bool
    status: int
    lines: frozenset[int]
    errors: bytes


class Postmap:
    """postmap with a configuration of its own."""

    def __init__(self, home: Path, *, smtputf8: bool = True) -> None:
        self.config = home / f"config-{smtputf8}"
        self.config.mkdir(exist_ok=True)
        main = self.config / "main.cf"
        if not main.exists():
            main.write_text(
                f"compatibility_level = 3.6\nsmtputf8_enable = {'yes' if smtputf8 else 'no'}\n"
            )
        age(main)

    def make(self, spec: bytes, command: str = "postmap") -> Said:
        """Make the database of a text source."""
        return self._run(command, spec)

    def ask(self, spec: bytes, keys: Sequence[bytes]) -> Said:
        """What it answers: `key TAB value`, for each key that is found."""
        return self._run("postmap", b"-q", b"-", spec, given=b"".join(b"%s\n" % k for k in keys))

    def ask_one(self, spec: bytes, key: bytes) -> Said:
        """A single key, which may have a newline in it."""
        return self._run("postmap", b"-q", key, spec)

    def list(self, spec: bytes) -> Said:
        """All that a table holds."""
        return self._run("postmap", b"-s", spec)

    def _run(self, command: str, *arguments: bytes, given: bytes = b"") -> Said:
        words = [program(command, "postfix"), "-c", str(self.config), *arguments]
        done = subprocess.run(words, check=False, input=given, capture_output=True, timeout=60)
        return Said(
            # Values may have any octet but a newline in them: no splitlines() here.
            tuple(done.stdout.split(b"\n")[:-1]),
            b"fatal: " in done.stderr,
            done.returncode,
            frozenset(int(each) for each in _LINE.findall(done.stderr)),
            done.stderr,
        )
