"""What is remembered of addresses, and when it is forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.address.extension import Delimiter
from smtpgw.address.lists import DomainList, Element
from smtpgw.address.remembered import MOST, Remembered, watched
from smtpgw.address.resolve import Resolved, ResolveOptions, Resolver
from smtpgw.address.standard import Standard, StandardOptions
from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import Found

_LABEL = st.sampled_from([b"a", b"B", b"b", "ß".encode(), b"ss", b""])
_DOMAIN = st.lists(_LABEL, min_size=1, max_size=4).map(b".".join)
_NONE = Element(maps=Maps(()))
"""A table of nothing: a list that has one is asked element by element."""


@given(st.lists(_DOMAIN, max_size=5), _DOMAIN, st.booleans(), st.booleans())
def test_names_are_found_as_if_they_were_asked_one_by_one(
    names: list[bytes], domain: bytes, parents: bool, below: bool
) -> None:
    elements = [Element(each) for each in names]
    quick, slow = (DomainList(each, parents, below) for each in (elements, [*elements, _NONE]))
    assert asyncio.run(quick.match(domain)) == asyncio.run(slow.match(domain))


class Clock:
    """Time goes on where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def resolver(options: ResolveOptions) -> Resolver:
    return Resolver(options, Standard(StandardOptions(b"example.net")), Delimiter())


def resolved(rules: Resolver, address: bytes, sender: bytes = b"") -> Resolved:
    return asyncio.run(rules.resolve(address, sender))


def test_a_changed_table_is_obeyed_as_soon_as_its_file_is_looked_at(tmp_path: Path) -> None:
    file, clock = tmp_path / "transport", Clock()
    file.write_text("example.com smtp:[old]\n")
    maps = Maps([open_table(f"hash:{file}", Context(clock=clock))])
    rules = resolver(ResolveOptions(transport_maps=maps))
    first = resolved(rules, b"u@example.com")
    assert (first.nexthop, resolved(rules, b"u@example.com")) == (b"[old]", first)
    file.write_text("# another line\nexample.com smtp:[new]\n")
    clock.now = 0.5
    assert resolved(rules, b"u@example.com") is first
    clock.now = 1.5
    second = resolved(rules, b"u@example.com")
    assert (second.nexthop, second.steps[-1].where) == (b"[new]", f"{file}:2")


def test_a_domain_that_becomes_ours_is_no_wrong_address(tmp_path: Path) -> None:
    file, clock = tmp_path / "domains", Clock()
    file.write_text("example.com x\n")
    ours = DomainList([Element(maps=Maps([open_table(f"hash:{file}", Context(clock=clock))]))])
    rules = resolver(ResolveOptions(mydestination=ours))
    assert asyncio.run(rules.wrong(b"u@-"))
    file.write_text("example.com x\n- x\n")
    clock.now = 1.5
    # What stands before the domain of ours is looked at now.
    assert asyncio.run(rules.wrong(b"u@other.example@-")) is False


def test_who_is_sent_elsewhere_for_his_sender_is_not_mixed_up() -> None:
    context = Context()
    maps = Maps([open_table("inline:{ {a@example.net = [a]}, {b@example.net = [b]} }", context)])
    rules = resolver(ResolveOptions(sender_dependent_relayhost_maps=maps))
    found = [resolved(rules, b"u@example.com", each).nexthop for each in (b"a@example.net",) * 2]
    found += [resolved(rules, b"u@example.com", b"b@example.net").nexthop]
    assert found == [b"[a]", b"[a]", b"[b]"]


class Asked:
    """A table that changes without telling, and counts its questions."""

    name = "asked"

    def __init__(self) -> None:
        self.count = 0

    async def find(self, key: bytes) -> Found | None:
        self.count += 1
        return Found(b"smtp:[%d]" % self.count) if key == b"example.com" else None

    async def close(self) -> None:
        return


@pytest.mark.parametrize("inside", [False, True])
def test_what_only_a_question_tells_is_asked_every_time(inside: bool) -> None:
    table = Asked()
    tables = [open_table("static:x", Context()), table] if inside else [table]
    assert watched([None, Maps(tables)]) is None
    rules = resolver(ResolveOptions(transport_maps=Maps([table])))
    one, two = (resolved(rules, b"u@example.com").nexthop for _ in range(2))
    assert one != two


def test_no_more_is_kept_than_there_is_room_for() -> None:
    kept = Remembered[int, int](())
    for number in range(3 * MOST):
        found = kept.now()
        assert found is not None
        found[number] = number
        assert len(found) <= MOST


def test_an_answer_that_a_change_overtakes_is_not_kept() -> None:
    version = [1]
    kept = Remembered[str, int]((lambda: version[0],))
    before = kept.now()
    assert before is not None
    version[0] = 2
    before["old"] = 1
    assert kept.now() == {}
