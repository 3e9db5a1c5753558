"""When a triplet may pass: every time that counts, from both sides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.greylist.rules import GreylistOptions, Network, Seen, decide

OPTIONS = GreylistOptions(delay=60, window=1000, lifetime=10_000, allow_after=3)
NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("seen", "reason", "wait"),
    [
        (None, "new", 60.0),
        (Seen(NOW, NOW), "early", 60.0),
        (Seen(NOW - 59, NOW - 59), "early", 1.0),
        (Seen(NOW - 60, NOW - 60), "passed", 0.0),
        (Seen(NOW - 1000, NOW - 1000), "passed", 0.0),
        (Seen(NOW - 1001, NOW - 1), "new", 60.0),
        (Seen(NOW - 90_000, NOW - 10_000, True), "known", 0.0),
        (Seen(NOW - 90_000, NOW - 10_001, True), "new", 60.0),
        (Seen(NOW + 5, NOW + 5), "new", 60.0),
    ],
)
def test_a_triplet(seen: Seen | None, reason: str, wait: float) -> None:
    verdict = decide(seen, None, NOW, OPTIONS).verdict
    assert (verdict.reason, verdict.wait) == (reason, wait)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Network(2, NOW), "new"),
        (Network(3, NOW), "network"),
        (Network(3, NOW - 10_000), "network"),
        (Network(3, NOW - 10_001), "new"),
        (Network(0, NOW - 10**9, True), "network"),
    ],
)
def test_a_network(network: Network, reason: str) -> None:
    assert decide(None, network, NOW, OPTIONS).verdict.reason == reason


def test_allow_after_0_lets_no_network_through() -> None:
    options = GreylistOptions(allow_after=0)
    assert decide(None, Network(99, NOW), NOW, options).verdict.reason == "new"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 5000), max_size=30))
def test_nobody_passes_before_the_delay_nor_waits_after_it(steps: list[float]) -> None:
    """Whatever the pauses between tries: passed means at least 60 s after the first of them, and
    one who keeps trying within the window does pass."""
    now, seen, first = NOW, None, NOW
    for step in steps:
        now += step
        found = decide(seen, None, now, OPTIONS)
        if found.verdict.reason == "new":
            first = now
        elif found.verdict.wait:
            assert now - first < 60
            assert found.verdict.wait == pytest.approx(60 - (now - first))
        else:
            assert now - first >= 60
        seen = found.seen
