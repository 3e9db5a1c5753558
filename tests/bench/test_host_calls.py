"""What a mail costs a filter's process is watched as calls: they are the same on a busy machine."""

import pytest

from tests.bench import host_calls

BOUNDS = {"headers": 700, "dkim": 570}
"""Calls a mail of 4 kB with ten fields, a tenth above what they are."""


@pytest.mark.parametrize("name", BOUNDS)
def test_a_mail_costs_a_filter_no_more_calls_than_it_did(name: str) -> None:
    """Whoever goes beyond says why, or finds what became dearer with `tests.bench.host_calls`."""
    assert host_calls.calls(name)[0] < BOUNDS[name]
