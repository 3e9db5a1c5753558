"""Random numbers are even, in their bounds, and never the same for parent and child."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.base import chance


@given(st.integers(1, 2**64))
def test_a_number_is_below_its_limit(limit: int) -> None:
    assert 0 <= chance.below(limit) < limit


def test_every_number_comes_as_often_as_the_others() -> None:
    counted = Counter(chance.below(5) for _ in range(5000))
    assert sorted(counted) == [0, 1, 2, 3, 4]
    assert min(counted.values()) > 800  # 1000 are expected; this is seven deviations off


@pytest.mark.parametrize("limit", [0, -1, 2**64 + 1])
def test_there_is_none_below_nothing_and_none_of_more_bits(limit: int) -> None:
    with pytest.raises(ValueError, match=str(limit)):
        chance.below(limit)


def test_a_child_has_others_than_its_parent() -> None:
    chance.below(2**64)  # so that there is something to inherit
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"%d" % chance.below(2**64))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = int(pipe.read())
    os.waitpid(child, 0)
    assert theirs != chance.below(2**64)


def test_threads_share_none() -> None:
    found: list[list[int]] = []

    def draw() -> None:
        found.append([chance.below(2**64) for _ in range(2000)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({number for those in found for number in those}) == 8000
