"""The queue from outside: what is found, how old it is, and what is changed of it."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpgw.queue import ids, tools
from smtpgw.queue.ages import MINUTES
from smtpgw.queue.states import MailState, RecipientEvent
from smtpgw.queue.store import Filter, NewMail, QueuedMail, Result, Settlement
from smtpgw.queue.tools import QueueTool, shard_directory
from tests.queue.support import START, FakeClock, message, new, opened, run
from tests.scale.fill import Plan, expected, fill

MAILS = 3000


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A queue of two shards; nobody changes it."""
    root = tmp_path_factory.mktemp("full")
    fill(shard_directory(root, 0), Plan(MAILS, START, destinations=7, senders=11, step=60.0))
    fill(shard_directory(root, 1), Plan(MAILS, START - 7, destinations=3, senders=2, step=30.0))
    return root


@pytest.fixture(scope="module")
def everything(full: Path) -> list[QueuedMail]:
    tool = QueueTool(full)
    found = list(tool.search(Filter(), START))
    tool.close()
    return found


def test_a_filled_queue_is_one_that_mail_filled(full: Path, everything: list[QueuedMail]) -> None:
    """No row is damaged, and each mail that waits gets its turn."""
    assert len(everything) == 2 * MAILS
    assert MailState.CORRUPT not in {each.state for each in everything}
    plan = Plan(MAILS, START)
    tool = QueueTool(full)
    assert tool.counts() | {state: 2 * count for state, count in expected(plan)} == tool.counts()
    assert b"".join(tool.content(everything[5].queue_id).pieces()).endswith(b"hello\r\n")
    tool.close()


def test_a_search_is_in_order_and_its_pages_are_the_whole(
    full: Path, everything: list[QueuedMail]
) -> None:
    found = [each.queue_id for each in everything]
    assert found == sorted(set(found))
    tool = QueueTool(full)
    states = frozenset({MailState.HOLD, MailState.INCOMING})
    some = [each.queue_id for each in tool.search(Filter(states), START)]
    assert some == [each.queue_id for each in everything if each.state in states]
    after = tool.search(Filter(states, after=some[99]), START)
    assert [each.queue_id for each in after] == some[100:]
    assert [each.queue_id for each in tool.list(Filter(states, some[99], 10))] == some[100:110]
    tool.close()


def test_who_waits_for_a_search_is_told_how_far_it_is(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpgw.queue.search.STEP", 500)
    tool = QueueTool(full)
    told: list[int] = []
    assert list(tool.search(Filter(reasons=("no such reason",)), START, told.append)) == []
    assert sum(told) == 2 * MAILS
    assert len(told) == 2 * MAILS / 500
    tool.close()


def test_windows_and_pages_leave_nothing_out(
    full: Path, everything: list[QueuedMail], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever their ends are: a page that is just full, a window in which nothing fits."""
    monkeypatch.setattr("smtpgw.queue.search.STEP", 35)
    monkeypatch.setattr("smtpgw.queue.search.PAGE", 7)
    tool = QueueTool(full)
    for chosen in (Filter(), Filter(frozenset(MailState)), Filter(born_before=START - 100_000)):
        found = [each.queue_id for each in tool.search(chosen, START)]
        limit = chosen.born_before or START
        assert found == [each.queue_id for each in everything if each.born <= limit]
    tool.close()


_LETTERS = "abAB*?[]^.@-\\'%_ü"
_PATTERN = st.text(_LETTERS + string.digits, min_size=1, max_size=6)


def _lower(text: str) -> str:
    return "".join(each.lower() if each.isascii() else each for each in text)


def _fits(pattern: str, text: str) -> bool:
    """What a pattern means, said another way than to the database."""
    pattern, text = _lower(pattern), _lower(text)
    if "*" not in pattern and "?" not in pattern:
        return pattern in text
    reach = {0}
    for letter in text:
        reach = _closed(pattern, reach)
        reach = {
            at if pattern[at] == "*" else at + 1
            for at in reach
            if at < len(pattern) and pattern[at] in ("*", "?", letter)
        }
    return len(pattern) in _closed(pattern, reach)


def _closed(pattern: str, reach: set[int]) -> set[int]:
    """A star may stand for nothing."""
    found = set(reach)
    for at in range(len(pattern)):
        if at in found and pattern[at] == "*":
            found.add(at + 1)
    return found


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(pattern=_PATTERN, texts=st.lists(st.text(_LETTERS, max_size=8), max_size=5))
def test_a_pattern_means_the_same_to_the_database(
    one_mail: tuple[QueueTool, str], pattern: str, texts: list[str]
) -> None:
    tool, queue_id = one_mail
    for text in texts:
        tool.hold(queue_id, text)
        found = tool.list(Filter(reasons=(pattern,)))
        assert bool(found) == _fits(pattern, text), (pattern, text)


@pytest.fixture(scope="module")
def one_mail(tmp_path_factory: pytest.TempPathFactory) -> tuple[QueueTool, str]:
    root = tmp_path_factory.mktemp("one")
    fill(shard_directory(root, 0), Plan(1, START))
    tool = QueueTool(root)
    return tool, tool.list()[0].queue_id


_FILTERS = {
    "sender": (Filter(senders=("S3@",)), lambda each: each.sender == b"s3@sender.example"),
    "several senders": (
        Filter(senders=("s1@*", "s3@*")),
        lambda each: each.sender in (b"s1@sender.example", b"s3@sender.example"),
    ),
    "recipient": (
        Filter(recipients=("*@d2.example",)),
        lambda each: each.recipients[0].address.endswith(b"@d2.example"),
    ),
    "destination": (Filter(destinations=("smtp:D1.example",)), lambda e: "d1" in e.site),
    "reason it is held": (Filter(reasons=("odd",)), lambda each: each.state is MailState.HOLD),
    "reason it was deferred": (
        Filter(reasons=("mx.d2.example[192.0.2.1] said",)),
        lambda each: "d2.example" in each.recipients[0].text,
    ),
    "younger": (Filter(born_after=START - 3600), lambda each: each.born >= START - 3600),
    "older": (Filter(born_before=START - 3600), lambda each: each.born <= START - 3600),
    "all at once": (
        Filter(
            frozenset({MailState.DEFERRED}),
            senders=("s1@",),
            destinations=("d1.",),
            reasons=("450",),
            born_before=START - 60,
        ),
        lambda each: (each.state, each.sender, each.site)
        == (MailState.DEFERRED, b"s1@sender.example", "smtp:d1.example")
        and each.born <= START - 60,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _FILTERS)
def test_a_filter_finds_what_it_says(full: Path, everything: list[QueuedMail], name: str) -> None:
    chosen, wanted = _FILTERS[name]
    tool = QueueTool(full)
    found = [each.queue_id for each in tool.search(chosen, START)]
    assert found == [each.queue_id for each in everything if wanted(each)]
    assert found
    tool.close()


@pytest.mark.parametrize("by_sender", [False, True])
def test_ages_are_counted_as_one_would_count_them(
    full: Path, everything: list[QueuedMail], by_sender: bool
) -> None:
    tool = QueueTool(full)
    states = [MailState.DEFERRED, MailState.HOLD]
    found = tool.ages(states, START, by_sender=by_sender)
    wanted: dict[str, list[int]] = {}
    for each in everything:
        if each.state in states:
            name = "sender.example" if by_sender else each.site
            counts = wanted.setdefault(name, [0] * (len(MINUTES) + 1))
            minutes = (START - each.born) / 60
            counts[sum(minutes >= end for end in MINUTES)] += 1
    assert {name: each.counts for name, each in found.items()} == wanted
    oldest = min(each.born for each in everything if each.state in states)
    assert min(each.oldest for each in found.values()) == oldest
    tool.close()


def test_ages_of_what_is_in_delivery(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(shard_directory(tmp_path, 0)) as store:
            for site in ("smtp:a", "smtp:a", "smtp:b"):
                await store.add(_for(new(store, message()), site))
            await store.lease(START, 9, 60.0)
            await store.add(_for(new(store, message()), "smtp:c"))
            tool = QueueTool(tmp_path)
            active = tool.ages([MailState.ACTIVE], START + 400)
            assert {name: each.counts[:3] for name, each in active.items()} == {
                "smtp:a": [0, 2, 0], "smtp:b": [0, 1, 0],
            }  # fmt: skip
            both = tool.ages([MailState.ACTIVE, MailState.INCOMING], START)
            assert sorted(both) == ["smtp:a", "smtp:b", "smtp:c"]
            tool.close()

    run(scenario())


def _for(item: NewMail, site: str) -> NewMail:
    return replace(item, site=site)


def test_many_are_changed_and_what_cannot_be_is_named(full: Path, tmp_path: Path) -> None:
    fill(shard_directory(tmp_path, 0), Plan(1000, START))
    fill(shard_directory(tmp_path, 3), Plan(1000, START - 1))
    tool = QueueTool(tmp_path)
    mails = list(tool.search(Filter(), START))
    unknown = "0" * 14
    done = tool.change([unknown, *(each.queue_id for each in mails)], tools.release(START))
    held = [each.queue_id for each in mails if each.state is MailState.HOLD]
    assert (
        done.done
        == len(held)
        == tool.counts()[MailState.DEFERRED]
        - sum(each.state is MailState.DEFERRED for each in mails)
    )
    refused = dict(done.refused)
    assert refused[unknown] == "no such mail"
    assert set(refused) == {unknown, *(each.queue_id for each in mails)} - set(held)
    removed = tool.change((each.queue_id for each in mails), tools.delete)
    assert (removed.done, removed.refused) == (2000, [])
    assert list(tool.search(Filter(), START)) == []
    tool.close()


@pytest.mark.parametrize("what", ["smtp:slow", "example.net", ".NET"])
def test_a_destination_or_a_domain_is_flushed_and_no_other(tmp_path: Path, what: str) -> None:
    """Its mails come at once, its rest is over; others' wait on."""

    async def scenario() -> None:
        clock = FakeClock()
        async with opened(shard_directory(tmp_path, 0), clock) as store:
            mine = _for(new(store, message(rcpts=(b"u@example.net",))), "smtp:slow")
            other = _for(new(store, message(rcpts=(b"u@example.org",))), "smtp:other")
            for item in (mine, other):
                await store.add(item)
            for lease in await store.lease(START, 9, 60.0):
                later = Result(0, RecipientEvent.DEFER, "4.0.0", "later", "", lease.mail.site)
                end = Settlement(
                    lease.mail.queue_id, lease.token, START, (later,), START + 900,
                    site=lease.mail.site,
                )  # fmt: skip
                await store.settle(end)
            for site in ("smtp:slow", "smtp:other"):
                await store.rest(site, START + 9000, "refused")
            tool = QueueTool(tmp_path)
            if ":" in what:
                assert tool.flush_destination(what, START + 1) == 1
            else:
                assert tool.flush_domain(what, START + 1) == 1
            leases = await store.lease(START + 1, 9, 60.0)
            assert [each.mail.queue_id for each in leases] == [mine.queue_id]
            assert [each.site for each in tool.resting(START)] == ["smtp:other"]
            assert tool.flush_domain("example.com", START + 1) == 0
            assert tool.flush_domain("ample.org", START + 1) == 0
            tool.close()

    run(scenario())


def test_requeue_asks_where_to_for_those_that_are_left(tmp_path: Path) -> None:
    fill(shard_directory(tmp_path, 0), Plan(8, START))
    tool = QueueTool(tmp_path)
    asked: list[list[bytes]] = []

    def sites_of(mails: Sequence[QueuedMail]) -> list[str]:
        asked.append([each.address for mail in mails for each in mail.open])
        return ["smtp:new"] * len(mails)

    mails = [each for each in tool.list() if each.state is MailState.DEFERRED]
    done = tool.change([each.queue_id for each in mails], tools.Requeue(START, sites_of))
    assert done.done == len(mails)
    assert asked == [[each.recipients[0].address for each in mails]], "all of them at once"
    assert {each.site for each in map(tool.show, (each.queue_id for each in mails))} == {"smtp:new"}
    assert all(ids.valid(each.queue_id) for each in mails)
    tool.close()
