"""One Postfix for all that is compared with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.address.oracle import HELD
from tests.peers.postfix import Postfix, postfix


@pytest.fixture(scope="session")
def peer() -> Iterator[Postfix]:
    """It holds every mail."""
    with postfix(HELD) as found:
        yield found
