"""What an entry is worth, and when a probe is due: verify(8)'s rules, from both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.verify.rules import Entry, Status, VerifyOptions, ask, learn, stale

HOUR, DAY = 3600.0, 86400.0
NOW = 100 * DAY
OPTIONS = VerifyOptions()
OK, DEFERRED, BOUNCED = Status.OK, Status.DEFERRED, Status.BOUNCED
UNKNOWN, UNREACHABLE = Status.UNKNOWN, Status.UNREACHABLE


def entry(status: Status, age: float, probing: float = 1e6) -> Entry:
    """Found out `age` seconds ago; a probe was begun `probing` seconds ago."""
    return Entry(status, NOW - probing, NOW - age, NOW - age if status is OK else 0.0)


@pytest.mark.parametrize(
    ("known", "answer", "probe"),
    [
        (None, UNKNOWN, True),
        (Entry(UNKNOWN, NOW - 999), UNKNOWN, False),
        (Entry(UNKNOWN, NOW - 1001), UNKNOWN, True),
        (entry(OK, 7 * DAY), OK, False),
        (entry(OK, 7 * DAY + 1), OK, True),
        (entry(OK, 7 * DAY + 1, 1000), OK, False),
        (entry(OK, 31 * DAY), OK, True),
        (entry(OK, 31 * DAY + 1), UNKNOWN, True),
        (entry(OK, 31 * DAY + 1, 1000), OK, False),
        (entry(BOUNCED, 3 * HOUR), BOUNCED, False),
        (entry(BOUNCED, 3 * HOUR + 1), BOUNCED, True),
        (entry(BOUNCED, 3 * DAY + 1), UNKNOWN, True),
        (entry(DEFERRED, 3 * HOUR), DEFERRED, False),
        (entry(DEFERRED, 3 * HOUR + 1), DEFERRED, True),
        (entry(UNREACHABLE, 3 * HOUR), UNREACHABLE, False),
    ],
)
def test_who_asks_is_answered(known: Entry | None, answer: Status, probe: bool) -> None:
    found = ask(known, NOW, OPTIONS)
    assert (found.answer.status, found.probe) == (answer, probe)
    assert (found.keep is not None) == probe
    if found.keep is not None:
        again = ask(found.keep, NOW + 1, OPTIONS)
        assert not again.probe
        assert again.answer.status is answer


@pytest.mark.parametrize(
    ("known", "found", "kept"),
    [
        (None, OK, OK),
        (None, BOUNCED, BOUNCED),
        (entry(BOUNCED, HOUR), OK, OK),
        (entry(BOUNCED, HOUR), DEFERRED, DEFERRED),
        (entry(OK, 8 * DAY), BOUNCED, None),
        (entry(OK, 8 * DAY), UNREACHABLE, None),
        (entry(OK, 32 * DAY), BOUNCED, BOUNCED),
    ],
)
def test_a_probe_that_fails_does_not_undo_what_was_good(
    known: Entry | None, found: Status, kept: Status | None
) -> None:
    new = learn(known, Entry(found), NOW, OPTIONS)
    assert (new.status if new else None) is kept
    if new is not None:
        assert (new.probed, new.updated) == (0.0, NOW)


def test_without_negative_cache_only_what_is_good_is_kept() -> None:
    options = replace(OPTIONS, negative_cache=False)
    assert ask(None, NOW, options).keep is None
    assert ask(None, NOW, options).probe
    assert learn(None, Entry(BOUNCED), NOW, options) is None
    assert learn(None, Entry(OK), NOW, options) is not None


@pytest.mark.parametrize(
    ("choice", "good", "answer"),
    [
        ("defer", 0.0, UNREACHABLE),
        ("accept", 0.0, OK),
        ("cached", 0.0, UNREACHABLE),
        ("cached", NOW - 62 * DAY, OK),
        ("cached", NOW - 62 * DAY - 1, UNREACHABLE),
    ],
)
def test_the_primary_is_down(choice: str, good: float, answer: Status) -> None:
    options = replace(OPTIONS, primary_down=choice)
    known = Entry(UNREACHABLE, 0.0, NOW, good)
    assert ask(known, NOW, options).answer.status is answer
    said = Entry(DEFERRED, 0.0, NOW, good)
    assert ask(said, NOW, options).answer.status is DEFERRED


def test_what_was_good_is_remembered_through_expiry_and_failure() -> None:
    options = replace(OPTIONS, primary_down="cached")
    good = learn(None, Entry(OK), NOW, options)
    later = NOW + 32 * DAY
    asked = ask(good, later, options)
    assert asked.answer.status is UNKNOWN
    assert asked.keep is not None
    down = learn(asked.keep, Entry(UNREACHABLE), later + 9, options)
    assert down is not None
    assert ask(down, later + 10, options).answer.status is OK


def test_deferrals_may_have_a_time_of_their_own() -> None:
    options = replace(OPTIONS, deferred_refresh=60.0)
    assert ask(entry(DEFERRED, 61), NOW, options).probe
    assert ask(entry(UNREACHABLE, 61), NOW, options).probe
    assert not ask(entry(BOUNCED, 61), NOW, options).probe


STATUSES = st.sampled_from([OK, DEFERRED, BOUNCED, UNREACHABLE])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5 * DAY), STATUSES), max_size=30))
def test_the_cache_over_a_long_time(steps: list[tuple[float, Status]]) -> None:
    """A good address is called so until it expires, and nobody is called good who never was."""
    now, known, good = NOW, None, None
    for step, found in steps:
        now += step
        asked = ask(known, now, OPTIONS)
        known = asked.keep or known
        if asked.answer.status is OK:
            assert good is not None
            assert now - good <= 31 * DAY + 1000
        if asked.probe:
            new = learn(known, Entry(found), now, OPTIONS)
            known = new or known
            if found is OK:
                good = now
        if known is not None and stale(known, now, OPTIONS):
            assert ask(known, now, OPTIONS).answer.status is UNKNOWN
