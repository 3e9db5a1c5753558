"""What `smtpgw explain` says is what happens: code, enhanced code and deciding restriction of every
command of generated dialogues, with the running gateway.

GATEPOST_RECEPTIONS is how many cases there are at least; the seed is printed.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from tests.gateway.gateway import until
from tests.reception.generated import World, dialogue, world
from tests.reception.names import ADDRESSES, FAULTS, SERVER, SERVER6, zone
from tests.reception.netns import Namespace, name_server, namespace
from tests.reception.ours import Ours, ours
from tests.reception.talk import PATIENCE, Said, held

COUNT = int(os.environ.get("GATEPOST_RECEPTIONS", "100"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261122"))
SERVICES, PORT = 25, 3600
CASES = 4
"""Cases for each service."""
_REFERENCE = re.compile(r" \[(\w{8})\]$")
pytestmark = [pytest.mark.xdist_group("reception"), pytest.mark.timeout(120 + COUNT)]
Case = list[str]
"""Listener, client, HELO name, sender, recipients."""
Verdict = tuple[int, str, str]


def test_explained_is_what_happens(record_property: Callable[[str, object], None]) -> None:
    dice, count = random.Random(SEED), 0
    rules: Counter[str] = Counter()
    differ: list[str] = []
    given = world(dice, SERVICES)
    ports = list(range(PORT, PORT + SERVICES))
    with (
        namespace("gatepost-explain", ADDRESSES) as space,
        name_server(space, zone(), FAULTS),
        ours(space, given, ports) as gateway,
    ):
        while True:
            cases = _cases(dice)
            live = _live(space, gateway, cases)
            explained = _explained(space, gateway, cases)
            for case, happened, said in zip(cases, live, explained, strict=True):
                rules.update(rule for *_, rule in happened if rule)
                if happened != said:
                    differ.append(_told(given, case, happened, said))
            count += len(cases)
            if count >= COUNT or differ:
                break
            given = world(dice, SERVICES)
            gateway.become(given, ports)
    record_property(
        "measured",
        f"seed {SEED}: {count} cases explained as they happen, {len(differ)} otherwise; "
        f"decided by {dict(rules.most_common())}",
    )
    assert not differ, "\n".join([f"seed {SEED}", *differ[:10]])


def _told(given: World, case: Case, happened: list[Verdict], said: list[Verdict]) -> str:
    number = int(case[0][1:].partition("-")[0])
    return f"{case}\n  happens   {happened}\n  explained {said}\n  {given.services[number]}"


def _cases(dice: random.Random) -> list[Case]:
    found = []
    for number in range(SERVICES):
        for _ in range(CASES):
            client, commands = _spoken(dice)
            at = int(":" in client)
            found.append([f"s{number}-{at}", client, *commands])
    return found


def _spoken(dice: random.Random) -> tuple[str, list[str]]:
    """A dialogue in the one form that can be explained."""
    while True:
        spoken = dialogue(dice)
        first, *rest = spoken.commands
        said = [each.partition("<")[2].rstrip(">") for each in rest if each.startswith("MAIL")]
        to = [each.partition("<")[2].rstrip(">") for each in rest if each.startswith("RCPT")]
        if first.startswith(("EHLO", "HELO")):
            return spoken.client.address, [first.partition(" ")[2], said[0], *to]


def _live(space: Namespace, gateway: Ours, cases: list[Case]) -> list[list[Verdict]]:
    heard = []
    for listener, client, helo, sender, *recipients in cases:
        port = PORT + int(listener[1:].partition("-")[0])
        server = SERVER6 if ":" in client else SERVER
        commands = [f"EHLO {helo}", f"MAIL FROM:<{sender}>"]
        commands += [f"RCPT TO:<{each}>" for each in recipients]
        said = held(space.connect(client, (server, port), PATIENCE), [*commands, "DATA"])
        heard.append(_until_refused(said, len(recipients)))
    last = [_reference(each) for said in heard for each in said if _reference(each)]
    decided = until(lambda: _decided(gateway, last[-1]), what="all decisions in the log")
    return [
        [(each.code, each.enhanced, decided.get(_reference(each), "")) for each in said]
        for said in heard
    ]


def _until_refused(said: list[Said], recipients: int) -> list[Said]:
    """As far as it is explained: to a refusal of what all that follows needs, to DATA."""
    for at, each in enumerate(said[:3]):
        if each.code >= 400:
            return said[: at + 1]
    taken = any(each.code < 400 for each in said[3 : 3 + recipients])
    return said[: 3 + recipients + taken]


def _reference(said: Said) -> str:
    found = _REFERENCE.search(said.text)
    return found[1] if found else ""


def _decided(gateway: Ours, last: str) -> dict[str, str]:
    """Which restriction, by reference; empty until the last one is there."""
    lines = [each for each in gateway.gateway.log() if each.get("reference")]
    found = {each["reference"]: each.get("filter", "edge") for each in lines if "filter" in each}
    edge = {each["reference"]: "edge" for each in lines if "filter" not in each}
    return edge | found if last in edge | found else {}


def _explained(space: Namespace, gateway: Ours, cases: list[Case]) -> list[list[Verdict]]:
    command = [*space.prefix, sys.executable, "-m", "tests.reception.explaining"]
    done = subprocess.run(
        [*command, str(gateway.gateway.file)], input=json.dumps(cases), capture_output=True,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    return [[(code, enhanced, rule) for code, enhanced, rule in each]
            for each in json.loads(done.stdout)]  # fmt: skip
