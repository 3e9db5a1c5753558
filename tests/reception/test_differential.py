"""Reception against Debian's smtpd: the same settings, the same dialogues from the same addresses,
the same names: reply codes and enhanced codes of every command agree.

GATEPOST_RECEPTIONS is how many configurations are made up; the seed is printed.  What differs with
a reason stands in docs/restrictions-differences.md, each with its rule in tests.reception.known.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

import pytest

from tests import named
from tests.reception.generated import Dialogue, World, dialogue, world
from tests.reception.known import RULES, Difference, why
from tests.reception.names import ADDRESSES, FAULTS, SERVER, SERVER6, zone
from tests.reception.netns import Namespace, name_server, namespace
from tests.reception.oracle import Oracle, oracle
from tests.reception.ours import Ours, ours
from tests.reception.talk import CLOSED, PATIENCE, Said, held

COUNT = int(os.environ.get("GATEPOST_RECEPTIONS", "100"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261122"))
SERVICES = 25
"""Configurations of a world."""
DIALOGUES = 3
"""Dialogues with each."""
MOST = 15
"""Differences that are shown; then it ends."""
THEIRS, OURS = 2500, 3500
pytestmark = [pytest.mark.xdist_group("reception"), pytest.mark.timeout(120 + COUNT)]


@dataclass
class Compared:
    """What was compared, and what differs."""

    replies: int = 0
    dialogues: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    differ: list[str] = field(default_factory=list)

    def add(
        self, given: World, number: int, spoken: Dialogue, mine: list[Said], theirs: list[Said]
    ) -> None:
        """Compare two dialogues, up to the first reply that differs."""
        self.dialogues += 1
        for at, (own, other) in enumerate(zip_longest(mine, theirs)):
            self.replies += 1
            self.codes[other.code if other else 0] += 1
            if own is not None and other is not None and own.codes == other.codes:
                continue
            one, two = own or CLOSED, other or CLOSED
            command = one.command or two.command
            dotted = any(each.startswith("MAIL") and ".>" in each for each in spoken.commands[:at])
            reason = why(Difference(command, one, two, _settings(given, number), dotted))
            if reason:
                self.known[reason] += 1
            else:
                self.differ.append(_told(given, number, spoken, at, mine, theirs))
            return


def _settings(given: World, number: int) -> dict[str, str]:
    """Of a service, with what its lists name in place of the names."""
    files, classes = given.tables.files, given.classes

    def whole(text: str) -> str:
        tables = [content for name, content in files.items() if f"/{name}" in text]
        named_ = [content for name, content in classes.items() if name in text]
        return " ".join([text, *tables, *named_])

    return {name: whole(text) for name, text in given.services[number].items()}


def _told(
    given: World, number: int, spoken: Dialogue, at: int, mine: list[Said], theirs: list[Said]
) -> str:
    own = "\n".join(
        f"    {key} = {value}" for key, value in given.services[number].items() if value
    )
    tables = "".join(
        f"\n    {name}: {text!r}" for name, text in given.tables.files.items() if f"/{name}" in own
    )
    return (
        f"{spoken.client} service {number}\n  {spoken.commands}\n  at reply {at}\n"
        f"  ours   {mine[at] if at < len(mine) else None}\n"
        f"  theirs {theirs[at] if at < len(theirs) else None}\n"
        f"  before {[each.codes for each in theirs[:at]]}\n{own}{tables}\n"
        f"    classes {given.classes}"
    )


def test_clients_hear_what_postfix_says(record_property: Callable[[str, object], None]) -> None:
    """Every reply of every dialogue."""
    dice, found = random.Random(SEED), Compared()
    count = min(COUNT, SERVICES)
    with (
        namespace("gatepost-smtpd", ADDRESSES) as space,
        name_server(space, zone(), FAULTS),
        _both(space, world(dice, count), count) as (postfix, gateway, first),
    ):
        given, done = first, 0
        while True:
            _compare(space, given, dice, found)
            done += count
            if done >= COUNT or len(found.differ) >= MOST:
                break
            given = world(dice, count)
            postfix.become(given, _ports(THEIRS, count))
            gateway.become(given, _ports(OURS, count))
        troubles, faults = postfix.troubles(), gateway.faults()
    record_property(
        "measured",
        f"seed {SEED}: {done} configurations, {found.dialogues} dialogues, {found.replies} "
        f"replies, as Postfix: all but {sum(found.known.values())} ({dict(found.known)}) and "
        f"{len(found.differ)} unexplained; codes {dict(sorted(found.codes.items()))}",
    )
    assert not [each for each in troubles if "fatal" in each or "panic" in each], troubles
    assert not faults, faults[0]
    assert not found.differ, "\n\n".join([f"seed {SEED}", *found.differ[:MOST]])


def test_every_difference_is_told() -> None:
    """Each rule that the comparison knows has its row in the document, and each row its rule."""
    page = (named.TOP / "docs" / "restrictions-differences.md").read_text()
    first = page.partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", first, re.MULTILINE)
    told = [each for each in rows if each != "what"]
    assert sorted(told) == sorted(RULES)


def _ports(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


@contextmanager
def _both(space: Namespace, given: World, count: int) -> Iterator[tuple[Oracle, Ours, World]]:
    with (
        oracle(space, given, _ports(THEIRS, count)) as theirs,
        ours(space, given, _ports(OURS, count)) as mine,
    ):
        yield theirs, mine, given


def _compare(space: Namespace, given: World, dice: random.Random, found: Compared) -> None:
    spoken = [
        (each, dialogue(dice)) for each in range(len(given.services)) for _ in range(DIALOGUES)
    ]
    with ThreadPoolExecutor(2) as both:
        theirs = both.submit(lambda: list(_spoken(space, spoken, THEIRS)))
        mine = both.submit(lambda: list(_spoken(space, spoken, OURS)))
        for (number, each), own, other in zip(spoken, mine.result(), theirs.result(), strict=True):
            found.add(given, number, each, own, other)


def _spoken(
    space: Namespace, those: list[tuple[int, Dialogue]], first: int
) -> Iterator[list[Said]]:
    for number, each in those:
        address = each.client.address
        server = SERVER6 if ":" in address else SERVER
        yield held(space.connect(address, (server, first + number), PATIENCE), each.commands)
