"""A worker's memory is bounded by settings, not by how large the mails are that arrive at once.

GATEPOST_LARGE_MAILS is the number of them in a long version.
"""

import os

import pytest

from milterd.host.inside import LARGE
from tests.bench import memory
from tests.bench.servers import ours, sink

MAILS = int(os.environ.get("GATEPOST_LARGE_MAILS", "12"))
SIZE = 10_000_000
LIBRARIES = 1
"""MB that libraries of another build may take beyond those that the bound is measured with."""
EACH = 2.6
"""MB that a mail in arrival may take: up to a megabyte of its body (`spool_threshold`), buffers of
its two sockets and of its file."""


@pytest.mark.parametrize("filters", [False, True], ids=["none", "three-filters"])
def test_a_worker_is_small_and_holds_no_large_mail_in_memory(filters: bool) -> None:
    """But for the few that a filter of its own looks at: once mapped, and once its body."""
    judged = LARGE * 2 * SIZE / 10**6 if filters else 0
    with sink() as (port, _), ours(filters, port, 1, more=memory.SETTINGS) as side:
        idle = memory.of(memory.worker(side))
        assert idle.rss < memory.BOUNDS["idle"] + LIBRARIES
        memory.arrive(side.port, MAILS, SIZE)
        assert memory.of(memory.worker(side)).most - idle.rss < 20 + MAILS * EACH + judged
