"""What a plain mail costs is watched as calls: they are the same on a busy machine."""

from tests.bench import calls

BOUND = 740
"""Calls a mail of 4 kB without filters, a fifth above what it is: on a busy machine more mails go
to their delivery by way of the queue."""
ONE_EACH = 1130
"""The same where each mail has a connection of its own."""
FILTERED = 1560
"""The same with three filters in the worker."""


def test_a_plain_mail_costs_no_more_calls_than_it_did() -> None:
    """Whoever goes beyond it says why, or finds what became dearer with `tests.bench.calls`."""
    assert calls.count(300).a_mail() < BOUND


def test_a_session_costs_no_more_calls_than_it_did() -> None:
    """The same for what a connection costs beside its mail."""
    assert calls.count(300, kept=False).a_mail() < ONE_EACH


def test_a_mail_with_filters_in_the_worker_costs_no_more_calls_than_it_did() -> None:
    """The same with clamav, headers and dkim, their own calls included."""
    assert calls.count(300, filters=True).a_mail() < FILTERED
