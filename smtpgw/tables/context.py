"""What a table is given when it is opened: where relative names begin, the clock, limits.

Every table type has a module with `open(name: str, context: Context) -> Table`, where `name`
is what follows the colon of `type:name`; the type as it was written is `context.type`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smtpgw.tables.folding import Folding
from smtpgw.tables.table import Table

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def _log() -> FilteringBoundLogger:
    from milterd.base import logs  # takes a while to load, and commands hand in their own

    return logs.get("tables")


def _no_opener(spec: str) -> Table:
    raise NotImplementedError(spec)  # the catalogue puts itself here


@dataclass(frozen=True, slots=True)
class Context:
    """`base`: the directory of relative names.  `clock`: seconds, monotonic.  `open`: opens the
    members of proxy:, pipemap: and the like.  `smtputf8`: smtputf8_enable, that is: keys and
    values must be UTF-8, and keys are folded as Unicode has it.  `aliases`: sources of hash:
    and its kin are written as in aliases(5), not as in postmap(1).  `skip_bad_lines`: a line that
    cannot be used is named in the log and the others count, as with Postfix; if not so, it is a
    TableError, or leaves an older content in force.  `substitute`: results of regexp: and pcre:
    may take $1 from the key; where that would let a stranger say where mail goes, a line that
    does is one that cannot be used (DICT_FLAG_NO_REGSUB).

    Seconds: `check_files` at least between two looks at a file, `regex_limit` for one lookup in
    regexp: and pcre:, `query_limit` for one question to a server with all its attempts,
    `connect_limit` for a connection to it.  `cache_size`: answers of a server that are kept,
    for `cache_time` seconds, "not found" for `cache_missing_time`; 0: none.  `connections`: to
    the servers of one table, at most.
    """

    base: Path = Path("/etc/postfix")
    clock: Callable[[], float] = time.monotonic
    random: random.Random = field(default_factory=random.SystemRandom)
    open: Callable[[str], Table] = _no_opener
    type: str = ""
    smtputf8: bool = True
    aliases: bool = False
    skip_bad_lines: bool = True
    substitute: bool = True
    check_files: float = 1.0
    regex_limit: float = 1.0
    query_limit: float = 10.0
    connect_limit: float = 5.0
    cache_size: int = 0
    cache_time: float = 60.0
    cache_missing_time: float = 10.0
    connections: int = 4
    log: FilteringBoundLogger = field(default_factory=_log)

    @property
    def folding(self) -> Folding:
        """What is done to keys."""
        return Folding(self.smtputf8)

    def path(self, name: str) -> Path:
        """A file that a table names."""
        return self.base / name

    def spec(self, name: str) -> str:
        """`type:name` as it was written."""
        return f"{self.type}:{name}"
