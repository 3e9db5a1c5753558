"""One report card: its rows, its page, and what a page says when it is read again.

A page has nothing in it that differs from one run to the next: no date, path, process or
duration.  A fail links to the scenario that reproduces it, if there is one.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[3]
CARDS = TOP / "docs/lab/cards"
SCENARIOS = TOP / "tests/scenarios/conform"
RESULTS = {"pass": "pass", "fail": "fail", "n/a": "not applicable"}

_ROW = re.compile(r"^\| `([^`]+)` \| (pass|fail|n/a) \|", re.MULTILINE)
_VARIES = (
    (re.compile(r"/tmp/gp-[\w-]+"), "DIRECTORY"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), r"N \2"),
    (re.compile(r"\b(octet|pid|process) \d+"), r"\1 N"),
    # How the end is noticed depends on who was first.
    (re.compile(r"(connection lost at [a-z ]+), octet N of the milter's: .*"), r"\1"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One check and its result: `pass`, `fail` or `n/a`."""

    check: str
    title: str
    rule: str
    source: str
    result: str
    seen: str


@dataclass(frozen=True, slots=True)
class Card:
    """Who is graded.

    `name` is the page's, `about` says how it was set up, `version` what it was, and `grade`
    starts it and tries all checks.  `ours`: it may not fail.  `explained`: the page, as seen
    from the cards, that names every fail, where no scenario can reproduce one.
    """

    name: str
    title: str
    about: str
    version: Callable[[], str]
    grade: Callable[[], Sequence[Row]]
    ours: bool = False
    explained: str = ""


def debian(package: str) -> Callable[[], str]:
    """The version of an installed Debian package."""

    def version() -> str:
        command = ["dpkg-query", "-W", "-f", "Debian's ${Package} ${Version}", package]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return version


def scenario(card: str, check: str) -> Path:
    """Where the scenario is that reproduces this fail."""
    return SCENARIOS / card / f"{check.replace('/', '-')}.milter"


def steady(text: str) -> str:
    """What was seen, without what is another each time."""
    for pattern, instead in _VARIES:
        text = pattern.sub(instead, text)
    return text


def results(page: str) -> dict[str, str]:
    """The result of each check, as a page has it."""
    return dict(_ROW.findall(page))


def page(card: Card, rows: Sequence[Row]) -> str:
    """The page of a card."""
    fails = [each for each in rows if each.result == "fail"]
    lines = [f"# {card.title}", "", f"{card.about}", ""]
    lines += [f"- Graded: {card.version()}.", f"- {counted(rows)}.", ""]
    for each in fails:
        lines += _fail(card, each)
    lines += ["## All checks", "", "| check | result | seen |", "|---|---|---|"]
    lines += [f"| `{each.check}` | {each.result} | {_told(each)} |" for each in rows]
    return "\n".join(lines) + "\n"


def _fail(card: Card, row: Row) -> list[str]:
    lines = [f"## Fails: {row.title}", "", f"{row.rule} ({row.source})", ""]
    lines += [f"Seen: {_code(row.seen)}", ""]
    reproduced = scenario(card.name, row.check)
    if reproduced.exists():
        where = Path("../../..") / reproduced.relative_to(TOP)
        lines += [f"`{row.check}`, reproduced by [{reproduced.name}]({where}).", ""]
    elif card.explained:
        lines += [f"`{row.check}`, explained in [{card.explained}]({card.explained}).", ""]
    else:
        lines += [f"`{row.check}`", ""]
    return lines


def _told(row: Row) -> str:
    return f"{row.title}: {_code(row.seen)}" if row.seen else row.title


def _code(text: str) -> str:
    safe = steady(text).replace("`", "'").replace("|", "\\|")
    return f"`{safe}`" if safe else ""


def counted(rows: Sequence[Row]) -> str:
    """How many checks there are, and how many of each result."""
    count = Counter(each.result for each in rows)
    words = [f"{count[each]} {name}" for each, name in RESULTS.items() if count[each]]
    return f"{len(rows)} checks: {', '.join(words)}"


_INDEX = """\
# Report cards

What `milterlab conform` says of milters that are in use, and `milterlab conform --mta` of the
MTAs that call them. `make cards` writes these pages anew; the suite holds them against what is
so today.

Each fail of a milter is reproduced by a [scenario](../scenarios.md), which says what is right, and
so fails against that milter at the line below `# fails here`:

```sh
milterlab run tests/scenarios/conform/rspamd --socket unix:/run/rspamd/milter.sock
```

Two fails stop a milter, or a process of it: OpenDKIM ends at a MAIL before the negotiation, and a
worker of rspamd at an end of message before CONNECT, with every other client's message. Whoever can
reach a milter's socket can do that: keep it to the MTA.

"""


def index(pages: Mapping[str, str]) -> str:
    """The page of all cards, from each page's text by its name."""
    lines = ["| card | pass | fail | not applicable |", "|---|---|---|---|"]
    for name, text in pages.items():
        count = Counter(results(text).values())
        title = text.partition("\n")[0].removeprefix("# ")
        numbers = " | ".join(str(count[each]) for each in RESULTS)
        lines.append(f"| [{title}]({name}.md) | {numbers} |")
    return _INDEX + "\n".join(lines) + "\n"
