"""What a mail costs a filter's process is watched as calls: they are the same on a busy machine."""

import pytest

from tests.bench import host_calls

BOUNDS = {"headers": 610, "dkim": 570}
"""Calls a mail of 4 kB with ten fields, a tenth above what they are."""


@pytest.mark.parametrize("name", BOUNDS)
def test_a_mail_costs_a_filter_no_more_calls_than_it_did(name: str) -> None:
    """Whoever goes beyond says why, or finds what became dearer with `tests.bench.host_calls`."""
    assert host_calls.calls(name)[0] < BOUNDS[name]


SESSION = 190
"""Calls a session without a mail, a tenth above what they are."""


def test_a_session_costs_a_filter_no_more_calls_than_it_did() -> None:
    """An MTA may make one for each mail; the same offer is not worked out again for each."""
    assert host_calls.session_calls("headers")[0] < SESSION
