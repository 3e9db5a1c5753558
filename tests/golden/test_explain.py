"""What `milterlab explain` says of our filters is what comes over their sockets.

For every mail: the edits and the verdict of each filter, and the mail in the end, are those
of the same filters asked one after the other as a chain of milters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from milterd.config import (
    ClamavSettings,
    DkimSettings,
    FilterTables,
    HeadersSettings,
    MilterdConfig,
    MilterdSettings,
)
from milterd.core.decision import Decision
from milterd.core.mail import Direction, Envelope, HeaderField, Mail, body_octets
from milterd.explain.order import Place
from milterd.explain.road import Road, walk
from milterd.lab.chain import Chained, Part, play_chain
from milterd.lab.mta_rules import RULES
from tests.golden.conftest import HOSTS, House
from tests.golden.filters import NAMES
from tests.golden.test_house import BATCH, Words, decided, heard
from tests.golden.test_house import GOLDEN as HOUSE_GOLDEN

pytestmark = pytest.mark.xdist_group("golden")  # one house for all
CONFIG = MilterdConfig(
    milterd=MilterdSettings(trusted_networks=(), daemon_names=(), socket_group=""),
    filter=FilterTables(clamav=ClamavSettings(), dkim=DkimSettings(), headers=HeadersSettings()),
)
ROW = [Place(name) for name in NAMES]


async def _chained(house: House) -> list[Chained]:
    """Each mail through the filters' sockets, in the one host or the other by turns."""
    found: list[Chained] = []
    for at in range(0, len(GOLDEN), BATCH):
        batch = GOLDEN[at : at + BATCH]
        rows = [
            [house.hosted[HOSTS[number % 2], name] for name in NAMES]
            for number in range(at, at + len(batch))
        ]
        asked = (play_chain(row, mail) for row, (_, mail) in zip(rows, batch, strict=True))
        found += await asyncio.gather(*asked)
    return found


def _explained(road: Road) -> list[Words]:
    return [decided(each.answer.decision if each.answer else Decision()) for each in road.stops]


def _said(parts: Sequence[Part]) -> list[Words]:
    return [heard(each.played) for each in parts]


def _left(mail: Mail) -> tuple[tuple[HeaderField, ...], bytes, Envelope]:
    return tuple(mail.visible()), body_octets(mail.body), mail.envelope


GOLDEN = [
    # As Postfix takes them in: without the fields it drops.
    (name, mail.with_headers(RULES["postfix"].take(mail).visible()))
    for name, mail in HOUSE_GOLDEN
]


def test_every_golden_mail(house: House) -> None:
    roads = [walk(CONFIG, ROW, house.pure, mail, {}) for _, mail in GOLDEN]
    chained = asyncio.run(_chained(house))
    differing = {
        label: (_explained(road), _said(found.parts))
        for (label, _), road, found in zip(GOLDEN, roads, chained, strict=True)
        if _explained(road) != _said(found.parts) or _left(road.mail) != _left(found.mail)
    }
    assert differing == {}
    for name in range(len(NAMES)):
        assert any(words[name][1] for words in map(_explained, roads)), "no edit: proves nothing"
    for road, (_, mail) in zip(roads, GOLDEN, strict=True):
        assert road.session.direction is mail.session.direction
    assert {road.session.direction for road in roads} == set(Direction)


@pytest.mark.parametrize("name", NAMES)
def test_every_filter_says_what_it_tried(house: House, name: str) -> None:
    """Asked to tell, a filter decides as it does unasked, and tells something."""
    for label, mail in GOLDEN[::7]:
        filter_, tried = house.pure[name], []
        facts = filter_.gather(mail, tried.append)
        assert filter_.decide(mail, facts, tried.append) == filter_.decide(mail, facts), label
        assert facts == filter_.gather(mail), label
        assert tried, label
